"""What `tapetum download` can fetch: where it lies on the hub, and how it becomes its published layout.

Copies on the hub come as parquet or zip; what is written is the layout that papers and other programs know.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from ..errors import DataError, ImageError
from ..fetching.hub import RemoteFile, Revision
from ..images.decode import sniff
from ..images.sources import read_bytes
from ..indexes import hf
from ..indexes.hf_features import class_names, read_card

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class DataSet:
    """A data set that can be downloaded.

    repo: its copy on the hub. wanted: which of the copy's files. write: makes the layout, (folder of the
    fetched files, folder to write into, progress) → images by split and class. published: the same as the
    authors have it. licence: what may be done with it.
    """

    repo: str
    wanted: Callable[[str], bool]
    write: Callable[[Path, Path, Tell], dict[str, int]]
    published: Mapping[str, int]
    licence: str

    def room(self, revision: Revision) -> int:
        """Bytes that the layout takes: the images again, each rounded up to a block of the file system."""
        return revision.size + 4096 * sum(self.published.values())


def write_cifake(fetched: Path, folder: Path, tell: Tell) -> dict[str, int]:
    """`train|test/REAL|FAKE/00000.jpg`, the bytes as they stand in the parquet rows, classes by name."""
    listing = hf.index(fetched, positive=_spelt(fetched, "FAKE"))
    table = listing.table
    counted: Counter[str] = Counter()
    columns = (table.column(name).to_pylist() for name in ("path", "split", "label"))
    for done, (path, split, label) in enumerate(zip(*columns, strict=True)):
        if split not in ("train", "test") or label is None:
            raise DataError(
                f"{fetched / path} is of the split {split} and the class {label}: no CIFAKE has that"
            )
        kind = f"{split}/{'FAKE' if label else 'REAL'}"
        try:
            content = read_bytes(fetched, path)
            suffix = sniff(content).lower().replace("jpeg", "jpg")
        except ImageError as error:
            raise DataError(
                f"{fetched / path} is no image ({error}): the copy {fetched.name} is damaged"
            ) from error
        _put(folder / kind / f"{counted[kind]:05d}.{suffix}", content)
        counted[kind] += 1
        tell(done + 1, table.num_rows)
    return dict(counted)


def write_flickr30k(fetched: Path, folder: Path, tell: Tell) -> dict[str, int]:
    """`flickr30k-images/*.jpg` and `dataset_flickr30k.json` as Karpathy and Fei-Fei (CVPR 2015) published it.

    The captions are the hub copy's `raw`, to the letter; `tokens` are derived from them: lower case, letters
    and digits only.
    """
    rows = _annotations(fetched / "flickr_annotations_30k.csv")
    _unzip(fetched / "flickr30k-images.zip", folder / "flickr30k-images", tell)
    missing = [
        row["filename"] for row in rows if not (folder / "flickr30k-images" / row["filename"]).is_file()
    ]
    if missing:
        raise DataError(f"flickr30k-images.zip lacks {len(missing)} of the images, the first is {missing[0]}")
    images, sentence = [], 0
    for number, row in enumerate(rows):
        sentences = []
        for raw in row["raw"]:
            tokens = re.findall(r"[a-z0-9]+", raw.lower())
            sentences.append({"tokens": tokens, "raw": raw, "imgid": number, "sentid": sentence})
            sentence += 1
        images.append(
            {
                "sentids": [one["sentid"] for one in sentences],
                "imgid": number,
                "sentences": sentences,
                "split": row["split"],
                "filename": row["filename"],
            }
        )
    text = json.dumps({"images": images, "dataset": "flickr30k"}, ensure_ascii=False)
    _put(folder / "dataset_flickr30k.json", text.encode())
    return dict(Counter(row["split"] for row in rows))


def _is_parquet(path: str) -> bool:
    return path == "README.md" or path.endswith(".parquet")


def _is_flickr30k(path: str) -> bool:
    return path in ("flickr30k-images.zip", "flickr_annotations_30k.csv")


DATA_SETS: Mapping[str, DataSet] = {
    "cifake": DataSet(
        repo="dragonintelligence/CIFAKE-image-dataset",
        wanted=_is_parquet,
        write=write_cifake,
        published={"train/REAL": 50_000, "train/FAKE": 50_000, "test/REAL": 10_000, "test/FAKE": 10_000},
        licence="MIT, as CIFAR-10 (Krizhevsky, 2009; Bird and Lotfi, 2024)",
    ),
    "flickr30k": DataSet(
        repo="nlphuji/flickr30k",
        wanted=_is_flickr30k,
        write=write_flickr30k,
        published={"train": 29_000, "val": 1_014, "test": 1_000},
        licence="non-commercial research, images under Flickr's terms (Young et al., 2014)",
    ),
}


def check_wanted(name: str, files: tuple[RemoteFile, ...]) -> None:
    """DataError where the copy on the hub lacks what the layout is made of."""
    paths = {file.path for file in files}
    needed = {"flickr30k": ["flickr30k-images.zip", "flickr_annotations_30k.csv"]}.get(name, [])
    missing = [one for one in needed if one not in paths]
    if name == "cifake" and not any(path.endswith(".parquet") for path in paths):
        missing = ["parquet files"]
    if missing:
        raise DataError(
            f"{DATA_SETS[name].repo} has no {' and no '.join(missing)} at this revision: name another one "
            "with --revision"
        )


# --- pieces ---


def _spelt(fetched: Path, name: str) -> list[str]:
    """The name as the copy spells it, in whatever case; where it has none, `hf.index` says what it has."""
    for file in sorted(fetched.rglob("*.parquet")):
        for names in class_names(pq.read_schema(file), read_card(fetched), None).values():
            found = [one for one in names if one.casefold() == name.casefold()]
            if found:
                return found
    return [name]


def _annotations(file: Path) -> list[dict[str, Any]]:
    """Rows of the csv with `raw` as a list of captions; DataError names the one that is not right."""
    found: list[dict[str, Any]] = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            for number, row in enumerate(csv.DictReader(lines, strict=True), start=1):
                raw = json.loads(row["raw"])
                name = row["filename"]
                if PurePosixPath(name).name != name or not name or name.startswith("."):
                    raise DataError(f"row {number} of {file} names the file {name!r}: must be a plain name")
                if row["split"] not in ("train", "val", "test"):
                    raise DataError(f"row {number} of {file} is of the split {row['split']!r}")
                if not isinstance(raw, list) or not raw or not all(isinstance(one, str) for one in raw):
                    raise DataError(f"row {number} of {file} has no list of captions")
                found.append({"filename": name, "split": row["split"], "raw": raw})
    except (csv.Error, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not the list of captions it should be ({error!r})") from error
    twice = [name for name, count in Counter(row["filename"] for row in found).items() if count > 1]
    if twice or not found:
        raise DataError(f"{file} names {twice[0]} twice" if twice else f"{file} holds no row")
    return found


def _unzip(archive: Path, folder: Path, tell: Tell) -> None:
    """The images of a zip into one folder; members that lead elsewhere are refused before any is written."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = []
            for member in opened.infolist():
                path = PurePosixPath(member.filename)
                if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                    raise DataError(
                        f"{archive} holds {member.filename!r}, which leads out of it: it is refused"
                    )
                if path.suffix.lower() == ".jpg" and not member.is_dir():
                    if path.name.startswith(".") or "__MACOSX" in path.parts:
                        continue
                    members.append((path.name, member))
            twice = [name for name, count in Counter(name for name, _ in members).items() if count > 1]
            if twice:
                raise DataError(f"{archive} holds {twice[0]} twice")
            size = sum(member.file_size for _, member in members)
            free = shutil.disk_usage(archive.parent).free
            if size > free:
                raise DataError(f"{archive} unpacks to {size / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")
            for done, (name, member) in enumerate(members):
                target = folder / name
                if not (target.is_file() and target.stat().st_size == member.file_size):
                    _put(target, opened.read(member))
                tell(done + 1, len(members))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive} is no whole zip ({error}): remove it and type the same again") from error


def _put(target: Path, content: bytes) -> None:
    """Write a file in one step, so that an interrupted one is never taken for a whole one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.tmp")
    unfinished.write_bytes(content)
    unfinished.replace(target)
