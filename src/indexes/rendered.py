"""What the embedded sets share: each is rendered below its root once, and known again by its arguments."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import FileLock

from ..errors import DataError
from .table import Listing, digest

log = logging.getLogger(__name__)


class Arguments(Protocol):
    """A frozen dataclass of what a set is rendered from. train, test: images of a split."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def train(self) -> int:
        """Images of train."""

    @property
    def test(self) -> int:
        """Images of test."""


def rendered(
    root: Path, wanted: Arguments, *, edition: int, stamp: str, render: Callable[[Path], None]
) -> Path:
    """The folder `<root>/<hash>/` of a set, rendered the first time; its file `stamp` states the arguments.

    edition: raised when the same arguments would render something else. render: writes PNG files into a
        folder, which gets its name once it is whole; one process at a time.
    Raises DataError where nothing can be written, and where a folder is no longer the set that it was.
    """
    stated = {"rendered": edition, **asdict(wanted)}
    name = digest(edition, asdict(wanted))[:12]
    place = root / name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if not place.is_dir():
                unfinished = place.with_name(f".{name}.tmp")
                shutil.rmtree(unfinished, ignore_errors=True)
                log.info("rendering %d synthetic images into %s", wanted.train + wanted.test, place)
                render(unfinished)
                (unfinished / stamp).write_text(json.dumps(stated))
                unfinished.rename(place)
    except OSError as error:
        raise DataError(
            f"the synthetic set can't be rendered below {root} ({error}): type data.root=<a folder with room>"
        ) from error
    _check_whole(place, place / stamp, stated, wanted.train + wanted.test)
    return place


def below(listing: Listing, place: Path) -> Listing:
    """The listing of a set's folder as one of the root that the folder lies in."""
    paths = [f"{place.name}/{path}" for path in listing.table.column("path").to_pylist()]
    return replace(listing, table=listing.table.set_column(0, "path", [paths]), watched=(place,))


def _check_whole(place: Path, stamp: Path, stated: dict[str, Any], expected: int) -> None:
    found = sum(1 for _ in place.rglob("*.png"))
    try:
        there = json.loads(stamp.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{stamp} can't be read ({error}): remove the folder {place}, it is rendered anew"
        ) from error
    if there != stated or found != expected:
        raise DataError(
            f"{place} is not the synthetic set it was ({found} of {expected} images): remove the folder, it "
            "is rendered anew"
        )
