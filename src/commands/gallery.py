"""`tapetum gallery`: embeddings of images of known class, in one file that `tapetum search` searches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.joined import places, replaced, with_own
from ..config.overrides import prepare
from ..config.schema import ANY_MODEL
from ..errors import ConfigError, DataError
from .predict import SOME_UNREADABLE, from_run, key_of, left_out, parted, progress_bar

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from ..indexes.table import Index
    from ..inference.embedder import Embedder

    Found = tuple[pa.Table, NDArray[np.float32], list[tuple[str, str]], dict[str, Any]]

_USAGE = "tapetum gallery RUN OUT.parquet [data=… data.key=…], or tapetum gallery RUN OUT.parquet INPUT…"
_OF_THE_DEVICE = (
    "accelerator",
    "allow_targets",
    "trainer.precision",
    "data.eval_batch_size",
    "data.num_workers",
)
_TAKES = "gallery RUN OUT takes data=…, data.key=…, accelerator=…, trainer.precision=… and allow_targets=[…]"
_OF_THE_RUN = ("decoder", "radiometry")
"""Keys of data that say how images are read, which is what these weights have learnt from."""
_FIRST = 5


def main(arguments: Sequence[str]) -> int:
    """Build it, and say of what and what was left out. The exit code."""
    paths, overrides = parted(arguments, _USAGE)
    if len(paths) < 2:
        named = ", ".join(paths) or "nothing"
        raise ConfigError(f"a run and an output are needed, and there is {named}: {_USAGE}")
    run, out, *inputs = paths
    of_data = [one for one in overrides if _of_data(key_of(one))]
    if inputs and of_data:
        raise ConfigError(
            f"{of_data[0]} and {inputs[0]}: a gallery is of a data set or of images that are named: {_USAGE}"
        )

    from ..launch.libraries import load_libraries

    load_libraries()
    from ..inference.files import list_unreadable
    from ..inference.gallery import Gallery, check_gallery, sha256, write_gallery
    from ..runs.loading import checkpoint_file
    from .console import console
    from .memory import explained

    path = check_gallery(out)
    embedder = embedder_of(run, [one for one in overrides if one not in of_data], _TAKES)
    console.print(embedder.described(), highlight=False, soft_wrap=True)
    try:
        images, vectors, bad, origin = (
            _of_inputs(embedder, inputs) if inputs else _of_a_data_set(embedder, of_data)
        )
    except (RuntimeError, MemoryError) as error:
        raise explained(error, embedder.config, "predicting") from error
    listed = list_unreadable(bad, path)
    if not len(vectors):
        raise DataError(f"no image of {len(bad):,} could be read, so {path} is not written: {bad[0][1]}")
    file = checkpoint_file(run)
    about = {**_about(embedder), **origin, "checkpoint": file.name, "sha256": sha256(file)}
    about["run"] = str(
        file.absolute().parent.parent if file.parent.name == "checkpoints" else file.absolute()
    )
    write_gallery(Gallery(images, vectors, about), path)
    classes = len(images["class"].combine_chunks().unique())
    said = [*left_out("embedding", len(bad), bad[:_FIRST], listed)]
    said.append(
        f"written {path}: {len(images):,} images of {classes:,} classes, {embedder.dimension} numbers each"
    )
    for line in said:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return SOME_UNREADABLE if bad else 0


def embedder_of(run: str, overrides: Sequence[str], takes: str) -> Embedder:
    """The embedder of a run of retrieval or of one of its checkpoints; ConfigError for another task's."""
    from ..inference.embedder import Embedder

    found = from_run(run, overrides, takes)
    if not isinstance(found, Embedder):
        raise ConfigError(
            f"{run} is a run of {found.config['task']}, which has no embeddings: name a run of retrieval, "
            "such as outputs/retrieval/…"
        )
    return found


def _of_inputs(embedder: Embedder, inputs: Sequence[str]) -> Found:
    """Of images that are named; each is of the class that its folder is called."""
    import pyarrow as pa

    from ..inference.embedder import vectors_of
    from ..inference.inputs import find_images, shown
    from .console import console

    images = find_images(inputs)
    for note, count in images.notes.items():
        console.print(f"{note}: {count:,}", highlight=False, soft_wrap=True)
    classes = [_folder(path) for path in images.paths]
    labels = {name: label for label, name in enumerate(sorted(set(classes)))}
    numbers: list[int] = []
    bad = [(shown(folder), reason) for folder, reason in images.unlisted.items()]
    tables = [embedder.answering().schema("item").empty_table()]
    with progress_bar(len(images.paths), "embedding", "embedded") as tell:
        for part in embedder.stream(images.paths):
            numbers += part.numbers.tolist()
            tables.append(part.table)
            bad += [(one.name, one.reason) for one in part.bad]
            tell(len(numbers) + len(bad) - len(images.unlisted), len(images.paths))
    found = pa.concat_tables(tables)
    of_class = [classes[number] for number in numbers]
    table = pa.table(
        {
            "path": found["item"],
            "class": pa.array(of_class, pa.string()).dictionary_encode(),
            "label": pa.array([labels[name] for name in of_class], pa.int64()),
        }
    )
    return table, vectors_of(found["embedding"]), bad, {"data": ", ".join(map(shown, inputs)), "index": None}


def _folder(path: str) -> str:
    """The class of an image: what its folder is called, on the disk or in its archive."""
    from ..inference.inputs import shown

    container, separator, member = path.partition("::")
    name = Path(member).parent.name if separator else Path(container).absolute().parent.name
    if not name:
        raise DataError(
            f"{shown(path)} lies in no folder, and its class is what its folder is called: put the images of "
            "each class into a folder that is called like it, or name a data set (data=manifest data.root=…)"
        )
    return shown(name)


def _of_a_data_set(embedder: Embedder, overrides: Sequence[str]) -> Found:
    """Of the gallery of the run's own data, or of others."""
    import pyarrow as pa

    from ..datamodules.samplers import Shard
    from ..inference.embed import embed
    from ..inference.inputs import shown
    from ..runs.building import build_datamodule, data_name
    from .console import console, progress_to

    config = _with_data(embedder.config, overrides)
    index, rows = _gallery(config, str(embedder.metadata.get("index")), own=not overrides)
    data = build_datamodule(config, index, embedder.module, progress_to(console, "decoding"))
    settings = str(config["trainer"]["precision"])
    with progress_bar(len(rows), "embedding", "embedded") as tell:
        batches = _told(data.ordered(rows, Shard()), len(rows), tell)
        found = embed(embedder.module, batches, device=embedder.device, precision=settings)
    taken = index.table.take(pa.array(found.rows))
    where = [index.location(row) for row in found.rows.tolist()]
    images = pa.table(
        {
            "path": [shown(str(root / path)) for root, path in where],
            "class": taken.column("class").cast(pa.string()).combine_chunks().dictionary_encode(),
            "label": taken.column("label"),
        }
    )
    bad = [(index.location(row)[1], reason) for row, reason in sorted(data.bad.items())]
    return images, found.embeddings, bad, {"data": data_name(config), "index": index.fingerprint}


def _with_data(config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The run's config with its data as the overrides say, read as the run reads images."""
    for one in overrides:
        if key_of(one).startswith(tuple(f"data.{name}" for name in _OF_THE_RUN)):
            raise ConfigError(f"{one}: images are read as the run has learnt to read them: leave it out")
    swaps = "data" in map(key_of, overrides)
    keeps = [] if swaps else [one for one in overrides if key_of(one).startswith("data.")]
    words = [f"model={ANY_MODEL[config['task']]}", *(one for one in overrides if one not in keeps)]
    other = compose(prepare(words, multirun=False)).config
    data = other["data"] if swaps else replaced(config, keeps)["data"]
    kept = {name: config["data"].get(name) for name in (*_OF_THE_RUN, "eval_batch_size", "num_workers")}
    here = {name: other["paths"][name] for name in ("data", "cache")}  # of this machine, now
    found = {**config, "data": {**data, **kept}, "paths": {**config["paths"], **here}}
    check_config(Composed({**found, "weights": None, "resume": None}, {}))
    return found


def _gallery(config: dict[str, Any], trained_on: str, *, own: bool) -> tuple[Index, NDArray[np.int64]]:
    """The Index, and which of its rows are the gallery: what was learnt from, or what test is to search."""
    from ..indexes.roles import train_gallery
    from ..runs.building import build_index
    from .console import console

    index = build_index(config)
    same = index.fingerprint == trained_on
    if own and not same:
        console.print(
            f"the images in {places(config)} have changed since the run was trained on them",
            highlight=False,
            soft_wrap=True,
        )
    if not (own or same):
        index = build_index(with_own(config, val_fraction=0.0))  # nothing is chosen here
        codes, names = index.codes("role")
        test = index.rows("test")
        searched = test[codes[test] == names.index("gallery")] if "gallery" in names else test[:0]
        if len(searched):
            return index, searched
    rows = train_gallery(index)
    if not len(rows):
        raise DataError(
            f"{places(config)} has no gallery: no image of test has the role gallery, and train is empty. "
            "Name folders instead, one a class: tapetum gallery RUN OUT.parquet DIR"
        )
    return index, rows


def _about(embedder: Embedder) -> dict[str, Any]:
    """What the file says of itself."""
    from datetime import datetime

    from .. import __version__

    config = embedder.config
    module: Any = embedder.module
    return {
        "name": config["name"],
        "dimension": embedder.dimension,
        "radiometry": config["data"].get("radiometry"),
        "modalities": embedder.metadata.get("modalities", []),
        "geometry": asdict(module.input_spec),
        "decision": asdict(module.decision),
        "precision": str(config["trainer"]["precision"]),
        "decoder": config["data"]["decoder"],
        "tapetum": __version__,
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _told(batches: Iterable[dict[str, Any]], total: int, tell: Any) -> Iterator[dict[str, Any]]:
    done: Counter[str] = Counter()
    for batch in batches:
        yield batch
        done["images"] += len(batch["index"])
        tell(done["images"], total)


def _of_data(key: str) -> bool:
    return key not in _OF_THE_DEVICE and (key == "data" or key.startswith(("data.", "paths.")))
