"""What is computed once for an Index and kept in the cache folder: where it lies, and who may write it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..errors import DataError
from ..images.augment import Augment
from ..images.geometry import InputSpec
from .reading import Reader

Progress = Callable[[int, int], None]


def identity_of(reader: Reader, spec: InputSpec, augment: Augment) -> dict[str, Any]:
    """What decides the pixels that the resize rule gives: the images as they are now, and the geometry.

    Raises DataError for an Index that does not know its files: nothing would tell that they have changed.
    """
    index, read = reader.index, reader.identity()
    if not index.edition:
        raise DataError(
            "data.cache=decoded, like data.cache=features, needs an Index that knows when its files last "
            "changed, as tapetum.indexes.build.build makes it: type data.cache=none"
        )
    return {
        "index": index.edition,
        "images": len(index),
        "size": spec.size,
        "enlarge": augment.enlarge,
        "resize": spec.resize,
        "interpolation": spec.interpolation,
        "channels": reader.channels,
        "decoder": reader.backend,
        "strict": spec.strict,
        **({"reader": read} if read else {}),  # plain images have the keys that they always had
    }


@contextmanager
def kept_at(cache: Path, kind: str, identity: Mapping[str, Any]) -> Iterator[Path]:
    """The directory `<cache>/<kind>/<hash of identity>`, which need not exist; no other process is inside."""
    key = blake2b(json.dumps(identity).encode(), digest_size=12).hexdigest()
    directory = cache.expanduser() / kind / key
    lock = FileLock(directory.with_suffix(".lock"))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"{directory.parent} can't be written: {error.strerror}. Type data.cache=none, or "
            f"paths.cache=<a folder of yours>"
        ) from error
    try:
        yield directory
    finally:
        lock.release()


def no_room(what: str, size: float, directory: Path, reason: str | None) -> DataError:
    """The error for a disk that does not take `size` bytes."""
    return DataError(
        f"the {what} ({size / 1e9:.2f} GB) can't be kept below {directory.parent}: {reason}. Type "
        f"data.cache=none, or paths.cache=<a folder with room>"
    )
