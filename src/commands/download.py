"""`tapetum download NAME [DIR]`: fetches a data set when it is asked to, and writes its published layout."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, TapetumError, did_you_mean

if TYPE_CHECKING:
    from .data_sets import DataSet

_NAMES = ("cifake", "flickr30k")
_OPTIONS = ("--endpoint", "--revision")
_FETCHED = ".fetched"


def main(arguments: Sequence[str]) -> int:
    """Fetch, check, write, and say where it lies and what to type next; the exit code."""
    from .console import console

    name, folder, options = _parsed(arguments)
    if folder is None:
        folder = Path(os.environ.get("TAPETUM_DATA", "data")) / name
    try:
        counts = download(
            name, folder, endpoint=options.get("--endpoint"), revision=options.get("--revision")
        )
    except KeyboardInterrupt:
        again = " ".join(["tapetum download", *arguments])
        print(f"interrupted; what came is kept. To go on, type\n  {again}", file=sys.stderr)
        return 130
    shown = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    console.print(f"{name}  {folder}  {shown}", highlight=False, soft_wrap=True)
    if name == "cifake":
        console.print(f"  tapetum check data=cifake data.root={folder}", highlight=False, soft_wrap=True)
    return 0


def download(
    name: str, folder: Path, *, endpoint: str | None = None, revision: str | None = None
) -> dict[str, int]:
    """Fetch a data set of DATA_SETS into a folder; images by split and class.

    endpoint: of a mirror of the hub; None: HF_ENDPOINT, else the hub. revision: branch, tag or commit; None:
    main, whose commit is recorded. `download.json` says where it came from; while it says `complete: false`
    the same call goes on at the same commit. Complete data is left as it is, and nobody is asked.

    Raises DataError for a folder with other things in it, and for all that goes wrong on the way.
    """
    from ..fetching.hub import Unreachable, fetch, look_up, read_record, recorded_revision, write_record
    from ..fetching.progress import shown
    from .console import console, progress_to
    from .data_sets import DATA_SETS, check_wanted

    data_set = DATA_SETS[name]
    record = read_record(folder) if folder.is_dir() else None
    if record is None and folder.exists():
        _check_empty(folder)
    if record is not None:
        _check_same(record, data_set, folder, revision)
        if record.get("complete") is True:
            console.print(
                f"{folder} is complete, at {record['revision'][:12]}", highlight=False, soft_wrap=True
            )
            return {str(kind): int(count) for kind, count in record["images"].items()}
        found = recorded_revision(record, folder)
        if endpoint is not None:
            found = replace(found, endpoint=endpoint.rstrip("/"))
    else:
        try:
            found = look_up(data_set.repo, wanted=data_set.wanted, revision=revision, endpoint=endpoint)
        except Unreachable as error:
            raise DataError(
                f"{error}\nOn a machine that reaches the hub, or a mirror of it, type\n"
                f"  tapetum download {name} {folder}\n"
                f"  tapetum download {name} {folder} --endpoint https://<mirror>\n"
                f"and carry {folder} here"
            ) from error
        check_wanted(name, found.files)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, found, complete=False, asked=revision)
    fetched = folder / _FETCHED
    with shown(found, fetched) as tell:
        fetch(found, fetched, extra=data_set.room(found), tell=tell)
    counts = data_set.write(fetched, folder, progress_to(console, "images written"))
    if counts != dict(data_set.published):
        _warn(name, counts, data_set.published)
    write_record(
        folder,
        found,
        complete=True,
        asked=revision,
        images=counts,
        published=dict(data_set.published),
        licence=data_set.licence,
    )
    shutil.rmtree(fetched)
    return counts


def _parsed(arguments: Sequence[str]) -> tuple[str, Path | None, dict[str, str]]:
    """(name, folder, options); TapetumError for what is none of them."""
    usage = f"tapetum download {'|'.join(_NAMES)} [DIR] [--endpoint URL] [--revision REVISION]"
    options: dict[str, str] = {}
    places: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option in _OPTIONS:
            value = value if equals else next(rest, "")
            if not value:
                raise TapetumError(f"{option} needs a value: {usage}")
            options[option] = value
        elif argument.startswith("-"):
            raise TapetumError(f"unknown option {argument}{did_you_mean(argument, _OPTIONS) or ':'} {usage}")
        else:
            places.append(argument)
    if not 1 <= len(places) <= 2:
        raise TapetumError(f"{'too many words' if places else 'nothing to download'}: {usage}")
    if places[0] not in _NAMES:
        raise TapetumError(
            f"unknown data set {places[0]}{did_you_mean(places[0], _NAMES) or ':'} {', '.join(_NAMES)}. Any "
            "other of the hub: data=hf data.index.repo=ORG/NAME"
        )
    return places[0], Path(places[1]).expanduser() if len(places) == 2 else None, options


def _check_empty(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: name one that is, or a new one")
    if any(folder.iterdir()):
        raise DataError(
            f"{folder} holds something that tapetum did not download: name an empty or a new folder, tapetum "
            "download NAME DIR"
        )


def _check_same(record: Mapping[str, object], data_set: DataSet, folder: Path, revision: str | None) -> None:
    if record.get("repo") != data_set.repo:
        raise DataError(f"{folder} holds {record.get('repo')}, not {data_set.repo}: name another folder")
    if revision not in (None, record.get("asked"), record.get("revision")):
        raise DataError(
            f"{folder} holds the revision {record.get('revision')}, not {revision}: name another folder, or "
            "leave --revision out"
        )


def _warn(name: str, counts: Mapping[str, int], published: Mapping[str, int]) -> None:
    differing = [
        f"{kind} {counts.get(kind, 0):,} (published: {published.get(kind, 0):,})"
        for kind in sorted({*counts, *published})
        if counts.get(kind, 0) != published.get(kind, 0)
    ]
    print(f"this copy of {name} is not as published: {', '.join(differing)}", file=sys.stderr)
