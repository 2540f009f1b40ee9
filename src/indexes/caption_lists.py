"""Published lists of captions: `.token`, Kaggle's csv files, Karpathy's JSON; strict but for one row."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import DataError, did_you_mean
from .captions import Captioned, caption_of, gathered, json_kind, json_of, lines_of, text_of
from .table import Split

KARPATHY: Mapping[str, Split] = {"train": "train", "val": "val", "test": "test"}

_TOKEN = re.compile(r"(?P<name>.+)#(?P<number>\d+)\s*\t(?P<caption>.*)")
_RESULTS = ("image_name", "comment_number", "comment")
_BROKEN = ("2199200615.jpg", "4   A dog runs across the grass .")  # lacks the second separator


def read_token(file: Path) -> list[Captioned]:
    """`results_20130124.token`, `Flickr8k.token.txt`: `name.jpg#0<TAB>caption`."""
    rows = []
    for number, line in lines_of(file):
        found = _TOKEN.fullmatch(line)
        if found is None:
            raise DataError(
                f"line {number} of {file} is {line[:80]!r}, not name.jpg#number, a tab and the caption"
            )
        rows.append((found["name"], found["number"], found["caption"], f"line {number} of {file}"))
    return gathered(_numbered(rows, file))


def read_results_csv(file: Path, notes: Counter[str]) -> list[Captioned]:
    """Kaggle's `results.csv`: `image_name| comment_number| comment`, without quotes.

    The row of 2199200615.jpg that lacks a separator, comment 4, is read as it is meant and counted in notes;
    any other that is not of three parts is an error.
    """
    lines = lines_of(file)
    header = next(lines, (0, ""))[1]
    if tuple(part.strip() for part in header.split("|")) != _RESULTS:
        raise DataError(f"the first line of {file} is {header[:80]!r}, not {'| '.join(_RESULTS)!r}")
    rows = []
    for number, line in lines:
        parts = [part.strip() for part in line.split("|", 2)]
        if tuple(parts) == _BROKEN:
            parts = [parts[0], *parts[1].split(maxsplit=1)]
            notes["rows mended that lack a separator (2199200615.jpg, comment 4)"] += 1
        if len(parts) != 3 or not parts[0] or not (parts[1].isascii() and parts[1].isdigit()):
            raise DataError(
                f"line {number} of {file} is {line[:80]!r}, not image| number| caption: mend it, or take it "
                "out"
            )
        rows.append((parts[0], parts[1], parts[2], f"line {number} of {file}"))
    return gathered(_numbered(rows, file))


def read_captions_csv(file: Path, notes: Counter[str]) -> list[Captioned]:
    """Kaggle's `captions.txt`: csv with the columns `image` and `caption`, quotes as in RFC 4180."""
    reader = csv.reader(StringIO(text_of(file), newline=""), strict=True)
    rows: list[tuple[str, str, str]] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        if header.count("image") != 1 or header.count("caption") != 1:
            raise DataError(
                f"the first line of {file} names the columns {', '.join(header) or 'none'}: it must be "
                "image,caption"
            )
        image, caption = header.index("image"), header.index("caption")
        begins = reader.line_num + 1
        for cells in reader:
            where, begins = f"line {begins} of {file}", reader.line_num + 1
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where} has {len(cells)} cells, the header has {len(header)}: quote "
                    "captions that hold commas"
                )
            if not cells[image].strip():
                raise DataError(f"{where} names no image")
            rows.append((cells[image].strip(), cells[caption], where))
    except csv.Error as error:
        raise DataError(
            f"{file} is not csv after line {reader.line_num} ({error}): write quotes inside a quoted caption "
            "twice"
        ) from error
    if len(header) > 2:
        others = ", ".join(name for name in header if name not in ("image", "caption"))
        notes[f"columns of {file.name} not used: {others}"] = len(header) - 2
    return gathered(rows)


def read_karpathy(file: Path, splits: Mapping[str, Split | None] = KARPATHY) -> list[Captioned]:
    """`dataset_flickr30k.json` and its like (Karpathy and Fei-Fei, CVPR 2015); captions are the `raw` ones.

    splits: the file's splits → ours; images of a split that is None are left out. `path` is `filename`, below
    `filepath` where an image has one.
    """
    content = json_of(file)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{file} is not an object with a list "images": it is not Karpathy\'s file')
    found = []
    for number, entry in enumerate(entries):
        where = f"images[{number}] of {file}"
        name, split = _text(entry, "filename", where), _text(entry, "split", where)
        if split not in splits:
            raise DataError(
                f"{where} ({name}) is of the split {split!r}{did_you_mean(split, splits) or ','} known are "
                f"{', '.join(splits)}"
            )
        folder = f"{_text(entry, 'filepath', where)}/" if "filepath" in entry else ""
        captions = _sentences(entry, f"{where} ({name})")
        ours = splits[split]
        if ours is not None:
            found.append(Captioned(folder + name, where, captions, ours))
    return found


def _sentences(entry: Mapping[str, Any], where: str) -> list[str]:
    sentences = entry.get("sentences")
    if not isinstance(sentences, list) or not sentences:
        raise DataError(f"{where} has no caption: its sentences must be a list of objects with raw")
    captions = []
    for place, one in enumerate(sentences):
        if not isinstance(one, dict) or "raw" not in one:
            raise DataError(f"sentences[{place}] in {where} is not an object with raw")
        captions.append(caption_of(one["raw"], f"sentences[{place}] in {where}"))
    return captions


def _text(entry: Any, key: str, where: str) -> str:
    if not isinstance(entry, dict):
        raise DataError(f"{where} is {json_kind(entry)}, not an object")
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise DataError(
            f"{where} has {'no' if key not in entry else json_kind(value) + ' as'} {key}: must be a text"
        )
    return value


def _numbered(rows: Sequence[tuple[str, str, str, str]], file: Path) -> Iterator[tuple[str, str, str]]:
    """Rows without their numbers; DataError where an image has two captions of one number."""
    if not rows:
        raise DataError(f"{file} holds no caption")
    seen: dict[tuple[str, int], str] = {}
    for name, number, caption, where in rows:
        first = seen.setdefault((name, int(number)), where)
        if first != where:
            raise DataError(f"{where} is caption {number} of {name}, as {first} is: keep one")
        yield name, caption, where
