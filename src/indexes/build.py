"""From a layout and its roots to an Index: list, put into splits, limit, check, keep."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import ConfigError, DataError, did_you_mean
from .cache import cached, describe
from .classes import oddities
from .duplicates import contents_of, without_near
from .splits import carve, check_groups, hold_out, limited, without_copies
from .table import MEMBER, SPLITS, Index, Listing, Split, digest, join, numbered, to_table
from .walk import IMAGE_SUFFIXES, MissingFolder, Stamps, stamps

log = logging.getLogger(__name__)

Layout = Callable[..., Listing]

_TICK_NS = 20_000_000  # file systems keep times in steps of up to 10 ms
_SHOWN = 5


class OneClass(DataError):
    """Images of one class, of which nothing can be learnt; the Index of them, since they can be judged."""

    def __init__(self, message: str, index: Index) -> None:
        self.index = index
        super().__init__(message)


def build(
    layout: Layout,
    *,
    root: Path | None,
    roots: Mapping[str, Path] | None = None,
    limit: int | Mapping[str, int] | None = None,
    val_fraction: float = 0.1,
    seed: int,
    cache: Path | None,
    rescan: bool = False,
    required: Collection[str] = ("label",),
    splits: Collection[Split] = (),
    name: str,
    part: bool = False,
) -> Index:
    """The Index of a data set.

    layout: `index(root, …) -> Listing` of a layout's module with its arguments bound.
    root: folder of the data set; None where every split that is wanted has a root of its own. It is not
        looked at where roots has both train and test.
    roots: a folder for a split. All of its images are of that split; if the layout finds splits inside, only
        those of that name are taken. What `root` has of that split is left out.
    limit: at most so many images of each split (a number), or of the splits named. Seeded, stratified,
        nested.
    val_fraction: share of train, in [0, 1), that becomes val by hash where the layout and roots give no val.
    seed: of the limit; nothing else depends on it.
    cache: folder below which the index is kept; None lists every time.
    rescan: list anew even if no folder changed, and so find files that were edited in place.
    required: columns that must be there, of `a|b` the first there is; with `label` also a value in every row
        and two classes in train.
    splits: splits that must not be empty, besides those that roots and limit name.
    name: of the data set, for messages.
    part: of several data sets, see `build_joined`: its train split may have one class only.

    Raises ConfigError for arguments out of range, DataError for what is wrong on the disk.
    """
    split_roots = {_split(key, "roots"): Path(path) for key, path in (roots or {}).items()}
    limits = _limits(limit)
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"data.val_fraction={val_fraction}: must be at least 0 (no validation) and below 1")
    if root is None and not split_roots:
        raise ConfigError(f"data.root is not set: type data.root=<folder of {name}>")
    _check_overlap(split_roots)

    def scan() -> tuple[Index, Stamps | None]:
        return _scan(layout, root, split_roots, limits, val_fraction, seed, name)

    try:
        if cache is None:
            index = scan()[0]
        else:
            request = {
                **describe(layout),
                "root": None if root is None else _absolute(root),
                "roots": {split: _absolute(path) for split, path in split_roots.items()},
                "limit": limits,
                "val_fraction": val_fraction,
                "seed": seed if limits else None,
            }
            index = cached(cache, request, scan, rescan=rescan)
    except OSError as error:
        raise DataError(
            f"{name} can't be listed or its index not be kept: {error}. See that data.root can be read and "
            f"that paths.cache (TAPETUM_CACHE) can be written"
        ) from error
    named = {*splits, *split_roots, *(limits if isinstance(limit, Mapping) else ())}
    _check_use(index, required, [split for split in SPLITS if split in named], limits, name, part)
    return index


def build_joined(parts: Mapping[str, Index], *, required: Collection[str] = ("label",)) -> Index:
    """Several data sets, each built with `part=True`, as the one Index that is learnt from; see `table.join`.

    Raises DataError where a file is in two of them, or the training images of all are of one class.
    """
    name = " and ".join(parts)
    index = join(parts)
    _check_unique(index.table, index.roots, name)
    _check_use(index, required, [], {}, name)
    return index


def _scan(
    layout: Layout,
    root: Path | None,
    split_roots: Mapping[Split, Path],
    limits: Mapping[Split, int],
    val_fraction: float,
    seed: int,
    name: str,
) -> tuple[Index, Stamps | None]:
    """The index, and the stamps under which it stays true; None where folders changed during the listing."""
    table, kept_roots, notes, stamped, listing = _listed(layout, root, split_roots, name)
    if not table.num_rows:
        where = ", ".join(str(folder) for folder in kept_roots)
        endings = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{where} holds no images for {name} (files ending in {endings}, in any case)"
            + "".join(f"; {note}: {count}" for note, count in notes.items())
        )
    _check_unique(table, kept_roots, name)
    _check_labels(table, name)
    if listing.copies or listing.read_for_copies:
        _files(table, kept_roots, name)  # names all that are not there, before the first is read
        contents = None if listing.copies else contents_of(table, kept_roots)
        table, removed = without_copies(table, contents)
        notes |= removed
    check_groups(table, name)
    if val_fraction and not pc.any(pc.equal(table.column("split"), "val")).as_py():
        table, moved = carve(table, val_fraction)
        notes["validation images taken from train"] = moved
    if listing.near_duplicates is not None:
        table, removed = without_near(Index(table, kept_roots, ""), listing.near_duplicates)
        notes |= removed
    notes |= oddities(Index(table, kept_roots, ""))
    table = limited(table, limits, seed).combine_chunks()
    table = to_table({column: table.column(column) for column in table.column_names})
    sizes, times = _files(table, kept_roots, name)
    empty = sum(size == 0 for size in sizes)
    if empty:
        notes["files of zero bytes (kept; reading them is an error)"] = empty
    fingerprint = _fingerprint(table, sizes)
    edition = digest(fingerprint, [str(folder) for folder in kept_roots], times)
    return Index(table, kept_roots, fingerprint, notes, edition), stamped


def _listed(
    layout: Layout, root: Path | None, split_roots: Mapping[Split, Path], name: str
) -> tuple[pa.Table, tuple[Path, ...], dict[str, int], Stamps | None, Listing]:
    """All rows in their splits, and one of the listings, for what it asks about copies all of them do.

    Listed again where a folder changed meanwhile (a set may render itself).
    """
    given: list[tuple[Split | None, Path]] = [*split_roots.items()]
    if root is not None and not {"train", "test"} <= split_roots.keys():
        given.insert(0, (None, root))
    sources = [(split, Path(_absolute(folder))) for split, folder in given]
    for again in (True, False):
        began = time.time_ns() - _TICK_NS
        listings = [_list(layout, split, folder, name) for split, folder in sources]
        stamped = stamps(path for listing in listings for path in listing.watched)
        if all(stamp[0] < began for stamp in stamped.values()):
            break
        if again:
            time.sleep(_TICK_NS / 1e9)
    else:
        log.warning("%s changes while it is listed: its index is not kept", name)
        stamped = {}
    notes: Counter[str] = Counter()
    tables = []
    kept: list[Path] = []
    for (split, folder), listing in zip(sources, listings, strict=True):
        notes.update(listing.notes)
        found = listing.table
        if split is None and "test" not in split_roots and listing.test_fraction:
            found = hold_out(found, listing.test_fraction)
        tables.append(_placed(found, len(kept), split, split_roots, notes))
        kept += [folder, *(Path(_absolute(other)) for other in listing.roots)]
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries().combine_chunks()
    table = to_table({column: table.column(column) for column in table.column_names})
    return numbered(table), tuple(kept), dict(notes), stamped or None, listings[0]


def _list(layout: Layout, split: Split | None, folder: Path, name: str) -> Listing:
    try:
        return layout(folder)
    except MissingFolder as error:
        override = "data.root" if split is None else f"data.roots.{split}"
        missing = _absolute(error.folder)
        origin = _origin(layout)
        raise MissingFolder(
            error.folder,
            f"{override}={missing} is not a folder: type {override}=<folder of {name}>"
            + (
                f", or set TAPETUM_DATA to the folder that holds {Path(missing).name}/"
                if split is None
                else ""
            )
            + (f". {name} is at {origin}" if origin else ""),
        ) from error


def _origin(layout: Layout) -> str | None:
    """Where a layout's data set is published: the constant ORIGIN of its module."""
    while isinstance(layout, functools.partial):
        layout = layout.func
    found = getattr(sys.modules.get(layout.__module__), "ORIGIN", None)
    return found if isinstance(found, str) else None


def _placed(
    table: pa.Table, before: int, split: Split | None, split_roots: Collection[Split], notes: Counter[str]
) -> pa.Table:
    """A listing's rows with `root` and `split`, without those that another root or split answers for.

    before: how many roots the listings before this one have.
    """
    given = table.column("split").to_pylist() if "split" in table.column_names else [None] * table.num_rows
    if any(value is None for value in given) and any(value is not None for value in given):
        row = given.index(None)
        raise DataError(
            f"row {row + 1} ({table.column('path')[row].as_py()}) has no split, but other rows have one: "
            "name a split (train, val or test) in every row, or in none"
        )
    if split is None:
        placed = np.array([value or "train" for value in given], dtype=object)
        keep = ~np.isin(placed, list(split_roots))
        reason = "images of root left out for a split that has a root of its own"
    elif split in given:
        placed = np.array(given, dtype=object)
        keep = placed == split
        reason = f"images of roots.{split} left out that its own folders call another split"
    else:
        placed = np.full(len(given), split, dtype=object)
        keep = np.ones(len(given), dtype=bool)
        reason = ""
    if not keep.all():
        notes[reason] += int((~keep).sum())
    columns = {name: table.column(name) for name in table.column_names}
    own = np.asarray(columns["root"]) if "root" in columns else np.zeros(len(given), np.int16)
    return to_table({**columns, "root": pa.array(own + np.int16(before)), "split": placed.tolist()}).filter(
        pa.array(keep)
    )


def _check_overlap(split_roots: Mapping[Split, Path]) -> None:
    resolved = {split: path.expanduser().resolve() for split, path in split_roots.items()}
    for position, (split, path) in enumerate(resolved.items()):
        for other, elsewhere in list(resolved.items())[position + 1 :]:
            if path.is_relative_to(elsewhere) or elsewhere.is_relative_to(path):
                raise DataError(
                    f"data.roots.{split}={split_roots[split]} and data.roots.{other}={split_roots[other]} "
                    f"overlap: the same images would be in {split} and {other}. Give them separate folders, "
                    f"or, where one folder holds {split}/ and {other}/, type data.root=<that folder> "
                    "data.roots=null"
                )


def _check_unique(table: pa.Table, roots: tuple[Path, ...], name: str) -> None:
    """DataError where a file, or one box of it, is in two rows (several conversations about it are fine)."""
    if "messages" in table.column_names:
        return
    # Roots may lie in each other (data.root=d data.roots.train=d/train), so files are compared by where they
    # are.
    prefixes = pa.array([f"{root.resolve()}/" for root in roots])
    files = pc.binary_join_element_wise(
        prefixes.take(table.column("root").combine_chunks()), table.column("path"), ""
    )
    boxes = table.column("box").to_pylist() if "box" in table.column_names else None
    if boxes is not None:
        files = pa.array([f"{file} box {box}" for file, box in zip(files.to_pylist(), boxes, strict=True)])
    counted = pa.table({"file": files}).group_by("file").aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1)).column("file").to_pylist()
    if twice:
        raise DataError(
            f"{len(twice)} files are in {name} more than once: {_few(sorted(twice))}. Name each file once"
        )


def _check_labels(table: pa.Table, name: str) -> None:
    """DataError where an image that may have a generator is neither real nor generated."""
    if not {"label", "generator"} <= set(table.column_names):
        return
    wrong = table.filter(pc.invert(pc.is_in(table.column("label"), pa.array([0, 1, None], pa.int64()))))
    if wrong.num_rows:
        raise DataError(
            f"{wrong.num_rows} labels of {name} are neither 0 (real) nor 1 (generated), the first is "
            f"{wrong.column('label')[0].as_py()} of {wrong.column('path')[0].as_py()}: map them in the layout"
        )


def _files(table: pa.Table, roots: tuple[Path, ...], name: str) -> tuple[list[int], list[int]]:
    """Bytes and modification time (ns) of every row's file, then of all further images in the rows' order.

    DataError names files that are not there.
    """
    known: dict[str, tuple[int, int]] = {}
    prefixes = [f"{root}/" for root in roots]
    files = list(zip(table.column("root").to_pylist(), table.column("path").to_pylist(), strict=True))
    if "further_images" in table.column_names:
        further = zip(files, table.column("further_images").to_pylist(), strict=True)
        files += [(root, path) for (root, _), paths in further for path in paths or ()]
    sizes, times, missing = [], [], []
    for root, path in files:
        container, member, _ = path.partition(MEMBER)
        file = prefixes[root] + container
        stat = known.get(file) if member else None
        if stat is None:
            try:
                status = os.stat(file)  # noqa: PTH116 - a million Path objects are slow
            except (FileNotFoundError, NotADirectoryError):
                missing.append(path)
                continue
            stat = (status.st_size, status.st_mtime_ns)
            if member:
                known[file] = stat
        sizes.append(stat[0])
        times.append(stat[1])
    if missing:
        where = ", ".join(str(root) for root in roots)
        raise DataError(
            f"{len(missing)} of the {len(files)} files of {name} are not there: {_few(missing)} (looked "
            f"in {where}). Bring them back or take them off the list; a list made elsewhere needs "
            "data.root=<the folder its paths start from>"
        )
    return sizes, times


def _fingerprint(table: pa.Table, sizes: list[int]) -> str:
    """Over values, a fixed number of rows at a time, so that arrow's chunks and encodings don't show."""
    parts = [digest(table.column_names)]
    step = 65_536
    for start in range(0, table.num_rows, step):
        rows = table.slice(start, step)
        parts.append(digest(*(rows.column(name).to_pylist() for name in table.column_names)))
        parts.append(digest(sizes[start : start + step]))
    if len(sizes) > table.num_rows:
        parts.append(digest(sizes[table.num_rows :]))  # of further images
    return digest(*parts)


def _check_use(
    index: Index,
    required: Collection[str],
    splits: list[Split],
    limits: Mapping[Split, int],
    name: str,
    part: bool = False,
) -> None:
    """DataError where the index can't serve what it is wanted for."""
    counts = index.counts()
    for split in splits:
        if split not in counts:
            there = ", ".join(f"{other}: {sum(classes.values())}" for other, classes in counts.items())
            raise DataError(
                f"the {split} split of {name} is empty ({there}): type data.roots.{split}=<folder>"
                + (" or a larger data.val_fraction" if split == "val" else "")
            )
    there = index.table.column_names
    absent = [column for column in required if not any(one in there for one in column.split("|"))]
    if absent:
        raise DataError(
            f"the index of {name} has no column {', '.join(absent).replace('|', ' or ')}, which the model "
            f"needs; it has {', '.join(there)}. Choose data that has it, or add it to the manifest"
        )
    chosen = {next(one for one in column.split("|") if one in there) for column in required}
    if "label" not in chosen:
        return
    labels = index.table.column("label")
    if labels.null_count:
        row = labels.combine_chunks().is_null().index(True).as_py()
        raise DataError(
            f"{labels.null_count} images of {name} have no label, the first is {index.location(row)[1]}: "
            "label every image"
        )
    if "train" in counts and len(counts["train"]) < 2 and not part:
        (only, number), limited_to = next(iter(counts["train"].items())), limits.get("train")
        raise OneClass(
            f"the train split of {name} has one class only ({only}: {number}): training needs at least two"
            + (f"; data.limit={limited_to} may be too small" if limited_to == number else ""),
            index,
        )


def _limits(limit: int | Mapping[str, int] | None) -> dict[Split, int]:
    if limit is None:
        return {}
    given: Mapping[str, int] = limit if isinstance(limit, Mapping) else dict.fromkeys(SPLITS, limit)
    limits = {_split(key, "limit"): number for key, number in given.items() if number is not None}
    for split, number in limits.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            key = f"data.limit.{split}" if isinstance(limit, Mapping) else "data.limit"
            raise ConfigError(
                f"{key}={number}: must be a whole number of images, at least 1, or null for all"
            )
    return limits


def _split(key: str, where: str) -> Split:
    for split in SPLITS:
        if key == split:
            return split
    raise ConfigError(
        f"unknown split data.{where}.{key}{did_you_mean(key, SPLITS)} splits: {', '.join(SPLITS)}"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _absolute(path: Path) -> str:
    return str(Path(path).expanduser().absolute())
