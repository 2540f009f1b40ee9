"""Indexes kept on the disk, so that a second start only asks whether a folder changed."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from .table import Index, digest, to_table
from .walk import Stamps, unchanged

log = logging.getLogger(__name__)

_METADATA = b"tapetum"


def cached(
    cache: Path, request: Mapping[str, Any], scan: Callable[[], tuple[Index, Stamps | None]], *, rescan: bool
) -> Index:
    """The index that was kept for this request, or what `scan` finds, which is then kept.

    cache: `indexes/<hash of the request>/index.parquet` is written below it; the parquet file's metadata hold
        the request, the notes and the stamps as JSON, so that one rename publishes all of it.
    scan: returns the index and the stamps under which it stays true; None as stamps keeps nothing.
    rescan: list anew whatever the stamps say.

    A kept index that cannot be read is made anew, with a warning.
    """
    folder = cache.expanduser() / "indexes" / digest(json.dumps(request, sort_keys=True))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "index.parquet"
    with FileLock(folder / "index.lock"):  # one process lists, the others of the same run read what it found
        if not rescan and file.is_file():
            found = _read(file)
            if found is not None:
                return found
        index, stamps = scan()
        if stamps is not None:
            _write(file, index, stamps, request)
        return index


def describe(layout: Callable[..., Any]) -> dict[str, Any]:
    """A layout's name, its arguments with the defaults filled in, and a hash of the code that lists, as plain
    data.

    Raises TypeError where an argument is no plain value.
    """
    function = layout
    args: tuple[Any, ...] = ()
    keywords: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        args, keywords = (*function.args, *args), {**function.keywords, **keywords}
        function = function.func
    bound = inspect.signature(function).bind_partial(*args, **keywords)
    bound.apply_defaults()
    return {
        "layout": f"{function.__module__}.{function.__qualname__}",
        "arguments": _plain(bound.arguments),
        "code": _code(function),
    }


def _read(file: Path) -> Index | None:
    try:
        metadata = json.loads(pq.read_schema(file).metadata[_METADATA])
        if not unchanged(metadata["stamps"]):
            return None
        table = pq.read_table(file, use_threads=False).replace_schema_metadata(None)
        table = to_table({name: table.column(name) for name in table.column_names})
        pa.default_memory_pool().release_unused()  # what reading took on the way, as much again as the table
        return Index(
            table,
            tuple(Path(root) for root in metadata["roots"]),
            metadata["fingerprint"],
            metadata["notes"],
            metadata["edition"],
        )
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the kept index %s is damaged (%s) and is made anew", file, error)
        return None


def _write(file: Path, index: Index, stamps: Stamps, request: Mapping[str, Any]) -> None:
    metadata = {
        "request": request,
        "roots": [str(root) for root in index.roots],
        "fingerprint": index.fingerprint,
        "edition": index.edition,
        "notes": dict(index.notes),
        "stamps": stamps,
    }
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    try:
        pq.write_table(
            index.table.replace_schema_metadata({_METADATA: json.dumps(metadata)}),
            unfinished,
            compression="zstd",
        )
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(_plain(item)) for item in value)
    raise TypeError(f"a layout argument must be plain data, not {value!r}")


def _code(function: Callable[..., Any]) -> str:
    """A hash over this package and the layout's own module: an index made by older code is made anew."""
    module = sys.modules.get(function.__module__)
    own = getattr(module, "__file__", None)
    files = {*Path(__file__).parent.glob("*.py"), *([Path(own)] if own else [])}
    hashed = blake2b(digest_size=16)
    for file in sorted(files):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()
