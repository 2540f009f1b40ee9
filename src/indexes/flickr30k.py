"""Flickr30k: 31,783 photographs with five captions each (Young et al., TACL 2014), in its four forms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError, did_you_mean
from ..images.parquet_images import image_columns
from .caption_lists import KARPATHY, read_karpathy, read_results_csv, read_token
from .captions import (
    Captioned,
    Copies,
    caption_of,
    captioned,
    check_arguments,
    check_named,
    check_there,
    find_file,
    image_folder,
    images_of,
    named_file,
    once_each,
    placed,
)
from .hf_repo import visible
from .table import MEMBER, Listing

COLUMNS: tuple[str, ...] = ("path", "split", "group", "captions")

ORIGIN = "https://shannon.cs.illinois.edu/DenotationGraph"

ANNOTATIONS = ("dataset_flickr30k.json", "results_20130124.token", "results.csv")
FOLDERS = (
    "flickr30k-images",
    "flickr30k_images",
    "flickr30k_images/flickr30k_images",
    "images",
    "Images",
    ".",
)

_READ = ("filename", "split", "caption")


def index(
    root: Path,
    *,
    annotations: str | None = None,
    images: str | None = None,
    test_fraction: float = 0.1,
    copies: Copies = "keep",
) -> Listing:
    """One row an image with its captions.

    annotations: the file to read, relative to root. None: the first that is there, in root or one folder
        below, of `dataset_flickr30k.json` (Karpathy and Fei-Fei, CVPR 2015: 29,000, 1,014 and 1,000 images;
        the 769 of no split are left out), `results_20130124.token`, `results.csv` (Kaggle), and the hub's
        parquet files (nlphuji/flickr30k: the same splits, each row with its own, and the images inside).
    images: the folder of the .jpg files, relative to root; None: the usual names.
    test_fraction: of a form without splits, by hash. copies: see `captions.captioned`.

    Raises MissingFolder, DataError with file and line, entry or row for whatever is not so, and for captions
    without their image; without Karpathy's file also for images without a caption.
    """
    check_arguments(copies, test_fraction)
    notes: Counter[str] = Counter()
    file = _annotations(root, annotations, notes)
    if file is None or file.suffix.lower() == ".parquet":
        files = [file] if file else [root / name for name in sorted(visible(root, root.rglob("*.parquet")))]
        if not files:
            raise DataError(
                f"{root} holds none of {', '.join(ANNOTATIONS)}, in itself or a folder of it, and no "
                ".parquet file: type data.root=<the folder of Flickr30k>, or data.index.annotations=<file>"
            )
        entries = _parquet_rows(root, files)
        return captioned(root, entries, watched=(root, *files), notes=notes, copies=copies)
    if file.suffix.lower() == ".json":
        entries = read_karpathy(file)
    elif file.suffix.lower() == ".csv":
        entries = read_results_csv(file, notes)
    else:
        entries = read_token(file)
    folder = image_folder(root, images, FOLDERS)
    there = images_of(root, folder)
    entries = placed(once_each(entries), folder)
    check_there(root, entries, there, str(root / folder))
    if file.suffix.lower() != ".json":
        check_named(entries, there, file)
    elif len(there) > len(entries):
        notes[f"images left out that {file.name} does not name"] = len(there) - len(entries)
    return captioned(
        root, entries, watched=(root, file), notes=notes, copies=copies, test_fraction=test_fraction
    )


def _annotations(root: Path, wanted: str | None, notes: Counter[str]) -> Path | None:
    if wanted is not None:
        return named_file(root, wanted, key="annotations")
    found = find_file(root, ANNOTATIONS, key="annotations")
    if found is None:
        return None
    file, others = found
    for other in others:
        notes[f"files of captions not read, since {file.name} is: {other}"] = 1
    return file


def _parquet_rows(root: Path, files: Sequence[Path]) -> list[Captioned]:
    """The rows of the hub's files; the image of each is the file's member with its number."""
    found: list[Captioned] = []
    first: dict[str, str] = {}
    for file in files:
        path = file.relative_to(root).as_posix()
        for number, (name, split, captions) in enumerate(_columns(file)):
            where = f"row {number} of {file}"
            if not name or first.setdefault(name, where) != where:
                raise DataError(
                    f"{where} names {name}, as {first[name]} does: fetch the files anew"
                    if name
                    else f"{where} has no filename: fetch the files anew"
                )
            if split is None or split not in KARPATHY:
                raise DataError(
                    f"{where} ({name}) is of the split {split!r}{did_you_mean(split or '', KARPATHY) or ','} "
                    f"known are {', '.join(KARPATHY)}"
                )
            if not captions:
                raise DataError(f"{where} ({name}) has no caption: every image needs one")
            texts = [caption_of(one, f"row {number} ({name}) of {file}") for one in captions]
            found.append(Captioned(f"{path}{MEMBER}{number}", where, texts, KARPATHY[split]))
    if not found:
        raise DataError(f"the parquet files of {root} hold no row")
    return found


def _columns(file: Path) -> Iterator[tuple[str | None, str | None, list[str | None] | None]]:
    """(filename, split, captions) of each row."""
    try:
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        missing = [name for name in ("image", *_READ) if name not in schema.names]
        if missing:
            raise DataError(
                f"{file} has no column {', '.join(missing)}, as nlphuji/flickr30k has; it has "
                f"{', '.join(schema.names)}"
            )
        if "image" not in image_columns(schema):
            raise DataError(f"the column image of {file} holds no image bytes ({schema.field('image').type})")
        kinds = {"filename": pa.string(), "split": pa.string(), "caption": pa.list_(pa.string())}
        table = parquet.read(columns=list(_READ), use_threads=False)
        for name, kind in kinds.items():
            if not table.schema.field(name).type.equals(kind):
                raise DataError(
                    f"the column {name} of {file} is {table.schema.field(name).type}, must be {kind}"
                )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a whole parquet file ({error}): fetch it again") from error
    yield from zip(*(table.column(name).to_pylist() for name in _READ), strict=True)
