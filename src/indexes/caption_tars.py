"""Tar archives of images with captions: WebDataset shards, as img2dataset writes them (`0.jpg`, `0.txt`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .archives import PackedImage, key_of, packed_images, split_of
from .captions import Captioned, Copies, caption_of, captioned, check_arguments, json_kind
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "split", "group", "captions")

_KEYS = ("captions", "caption")


def index(
    root: Path, *, captions: str | None = None, test_fraction: float = 0.1, copies: Copies = "keep"
) -> Listing:
    """One row an image in the uncompressed tar archives below root, `train-000000.tar::00017.jpg`.

    captions: `txt`, the text beside each image, or a key of its `.json` that holds a text or a list of texts.
        None: `txt` where there is one, else the key `captions`, else `caption`.
    test_fraction: where no archive and no folder in one tells a split, by hash of the name, or with
        copies=remove of the bytes. copies: see `captions.captioned`; archives are read once as a whole.

    Splits are told by the archive's name or folder, or by folders in it. Raises what `archives.packed_images`
    does, and DataError for an image without a caption.
    """
    check_arguments(copies, test_fraction)
    notes: Counter[str] = Counter()
    images, files = packed_images(root, notes)
    source = captions or _source(images, root)
    entries = [
        Captioned(image.path, image.path, _captions(image, source, images), split_of(image))
        for image in images
    ]
    return captioned(
        root, entries, watched=(root, *files), notes=notes, copies=copies, test_fraction=test_fraction
    )


def _source(images: Sequence[PackedImage], root: Path) -> str:
    if any(".txt" in image.besides for image in images):
        return "txt"
    for key in _KEYS:
        if any(key in _object(image) for image in images):
            return key
    raise DataError(
        f"none of the {len(images)} images in the archives of {root} has a .txt beside it, or a .json with "
        f"the key {' or '.join(_KEYS)}: type data.index.captions=<key of .json>"
    )


def _captions(image: PackedImage, source: str, images: Sequence[PackedImage]) -> list[str]:
    beside = f"{key_of(image.name)}.{'txt' if source == 'txt' else 'json'}"
    where = f"{beside} of {image.archive}" + ("" if source == "txt" else f", key {source}")
    value = image.besides.get(".txt") if source == "txt" else _object(image).get(source)
    if value is None:
        missing = sum(
            (one.besides.get(".txt") if source == "txt" else _object(one).get(source)) is None
            for one in images
        )
        raise DataError(
            f"{image.path} has no caption: {beside} is not there"
            + ("" if source == "txt" else f", or has no {source}")
            + f" ({missing} of {len(images)} images). Name the source with data.index.captions=txt, or a key "
            "of .json"
        )
    if isinstance(value, str):
        return [caption_of(value, where)]
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else json_kind(value)
        raise DataError(f"{where} is {what}: must be a caption, or a list of captions")
    return [caption_of(one, f"item {number} of {where}") for number, one in enumerate(value)]


def _object(image: PackedImage) -> Mapping[str, Any]:
    found = image.besides.get(".json")
    return found if isinstance(found, dict) else {}
