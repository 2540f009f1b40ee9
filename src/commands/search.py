"""`tapetum search`: the images of a gallery that are most like one's own, and the class that follows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, ConfigError, DataError
from .gallery import embedder_of
from .predict import SOME_UNREADABLE, key_of, left_out, parted

if TYPE_CHECKING:
    import pyarrow as pa

    from ..inference.embedder import Embedder
    from ..inference.gallery import Gallery

_USAGE = "tapetum search GALLERY.parquet IMAGE… [k=5] [run=RUN] [out=FILE.csv|json]"
_TAKES = (
    "search GALLERY IMAGE… takes k=…, run=…, out=…, accelerator=…, trainer.precision=…, "
    "data.eval_batch_size=…, data.num_workers=… and allow_targets=[…]"
)
_FIRST = 5


def main(arguments: Sequence[str]) -> int:
    """Search, print or write what was found, and how long each step took. The exit code."""
    paths, words = parted(arguments, _USAGE)
    if len(paths) < 2:
        named = ", ".join(paths) or "nothing"
        raise ConfigError(f"a gallery and images are needed, and there is {named}: {_USAGE}")
    given = {key_of(word): word.partition("=")[2] for word in words if key_of(word) in ("k", "run", "out")}
    overrides = [word for word in words if key_of(word) not in given]
    k = _count(given.get("k", "5"))

    from ..launch.libraries import load_libraries

    load_libraries()
    from ..inference.embedder import vectors_of
    from ..inference.files import list_unreadable
    from ..inference.gallery import read_gallery
    from ..inference.inputs import find_images, shown
    from ..inference.output import check_output, writing
    from .console import console
    from .memory import explained

    out = check_output(given["out"], _hits_schema()) if "out" in given else None
    images = find_images(paths[1:])
    began = time.perf_counter()
    gallery = read_gallery(paths[0])
    gallery.check_k(k)
    embedder = _embedder(gallery, paths[0], given.get("run"), overrides)
    loaded = time.perf_counter()
    if gallery.decision.exclude is not None:
        said = f"no {gallery.decision.exclude} of these images is known (model.decision.exclude): all count"
        console.print(said, highlight=False, soft_wrap=True)
    for note, count in images.notes.items():
        console.print(f"{note}: {count:,}", highlight=False, soft_wrap=True)
    bad = [(shown(folder), reason) for folder, reason in images.unlisted.items()]
    found: list[pa.Table] = []
    embedding = searching = 0.0
    threads = embedder.config["data"]["num_workers"] if "data.num_workers" in map(key_of, overrides) else None
    try:
        for part in embedder.stream(images.paths, workers=threads):
            bad += [(one.name, one.reason) for one in part.bad]
            embedding += part.seconds
            if len(part.table):
                asked = time.perf_counter()
                names = part.table["item"].to_pylist()
                found.append(_hits(gallery, names, vectors_of(part.table["embedding"]), k))
                searching += time.perf_counter() - asked
    except (RuntimeError, MemoryError) as error:
        raise explained(error, embedder.config, "predicting") from error
    preparing = time.perf_counter() - loaded - embedding - searching
    if not found:
        raise DataError(f"no image of {len(bad):,} could be read. The first is {bad[0][0]}: {bad[0][1]}")
    lines: list[str] = []
    if out is None:
        for table in found:
            _print(table, k, gallery)
        lines += [f"no answer for {len(bad):,}"] if bad else []
        lines += [f"{name}: {reason}" for name, reason in bad]
    else:
        with writing(out, _hits_schema()) as write:
            for table in found:
                write(table)
        lines += left_out("answer", len(bad), bad[:_FIRST], list_unreadable(bad, out))
        lines.append(f"written {out}: {sum(map(len, found)) // k:,} images, {k} neighbours each")
    lines.append(
        f"load {loaded - began:.3f} s (weights, and {len(gallery):,} images of the gallery), "
        f"prepare {preparing:.3f} s, embed {embedding:.3f} s, search {searching:.3f} s"
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return SOME_UNREADABLE if bad else 0


def _embedder(gallery: Gallery, path: str, run: str | None, overrides: Sequence[str]) -> Embedder:
    """The embedder that made the gallery, where it is now, and reading images as it did then."""
    from ..inference.gallery import check_weights

    about = gallery.about
    place = Path(run or about["run"])
    file = place / "checkpoints" / about["checkpoint"] if place.is_dir() else place
    if not file.is_file():
        raise CheckpointError(
            f"{path} was made by {about['run']} ({about['checkpoint']}), and there is no {file}: type "
            "run=DIR to say where that run is now"
        )
    check_weights(about, file)
    keys = [key_of(one) for one in overrides]
    same = {"data.decoder": about["decoder"], "trainer.precision": about["precision"]}
    words = [f"{key}={value}" for key, value in same.items() if key not in keys]
    return embedder_of(str(file), [*words, *overrides], _TAKES)


def _hits_schema() -> pa.Schema:
    import pyarrow as pa

    text, number = pa.string(), pa.float32()
    return pa.schema(
        [
            ("query", text),
            ("decision", text),
            ("rank", pa.int64()),
            ("similarity", number),
            ("class", text),
            ("path", text),
        ]
    )


def _hits(gallery: Gallery, names: Sequence[str], vectors: Any, k: int) -> pa.Table:
    """k rows an image: what is nearest to it, and the class that it is given."""
    import pyarrow as pa

    similarity, rows = gallery.search(vectors, k)
    decided = gallery.classify(vectors)
    near = gallery.images.take(pa.array(rows.ravel()))
    return pa.table(
        {
            "query": [name for name in names for _ in range(k)],
            "decision": [name for name in decided for _ in range(k)],
            "rank": [*range(1, k + 1)] * len(names),
            "similarity": pa.array(similarity.ravel()),
            "class": near["class"].cast(pa.string()),
            "path": near["path"],
        },
        schema=_hits_schema(),
    )


def _print(hits: pa.Table, k: int, gallery: Gallery) -> None:
    """A line and a table an image."""
    from rich.table import Table
    from rich.text import Text

    from .console import console

    decision = gallery.decision
    how = f"{decision.rule}, k={decision.k}" if decision.rule == "knn" else decision.rule
    for start in range(0, len(hits), k):
        rows = hits.slice(start, k).to_pylist()
        said = f"{rows[0]['query']}: {rows[0]['decision']} ({how})"
        console.print(said, style="bold", highlight=False, soft_wrap=True, markup=False)
        table = Table(header_style="bold")
        table.add_column("rank", justify="right")
        table.add_column("similarity", justify="right")
        table.add_column("class", overflow="fold")
        table.add_column("path", overflow="fold")
        for row in rows:
            table.add_row(str(row["rank"]), f"{row['similarity']:.4f}", Text(row["class"]), Text(row["path"]))
        console.print(table)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"k={text} must be a whole number of images, at least 1")
    return int(text)
