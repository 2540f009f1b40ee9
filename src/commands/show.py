"""`tapetum show`: a page of images exactly as a network gets them, through the code that feeds a training."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.fitting import compose_for_data
from ..config.joined import each, places, replaced
from ..config.overrides import is_a_file, prepare
from ..config.schema import ANY_MODEL
from ..errors import ConfigError, DataError, ImageError, TapetumError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ..indexes.table import Index, Split
    from ..reports.samples import Frame, Sample, Unreadable

SAMPLES = 24
EPOCHS = (0, 1, 2)  # whose draws of the augmentation are shown
MOST_UNREADABLE = 200  # then the page is written with what there is
_USAGE = "tapetum show [RUN] [data=… split=train|val|test …] [OUTPUT.html]"
_OF_A_RUN = ("data", "augment", "seed", "allow_targets", "paths")  # what may differ from the run


def main(arguments: Sequence[str]) -> int:
    """Write the page and print its path; the exit code."""
    from .console import console

    flags = [one for one in arguments if one.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]} is a flag, and there are none: {_USAGE}")
    places = [one for one in arguments if "=" not in one or is_a_file(one)]
    pages = [one for one in places if Path(one).suffix.lower() in (".html", ".htm")]
    runs = [one for one in places if one not in pages]
    for several in (pages, runs):
        if len(several) > 1:
            raise TapetumError(f"{' and '.join(several)}: one run and one page at most, {_USAGE}")
    overrides = [one for one in arguments if one not in places]
    split = _split([one.removeprefix("split=") for one in overrides if one.startswith("split=")])
    overrides = [one for one in overrides if not one.startswith("split=")]
    out = Path(pages[0]) if pages else None
    command = shlex.join(["tapetum", "show", *arguments])
    if runs:
        page = show_run(runs[0], overrides, split, out, command=command)
    else:
        page = show(overrides, split, out, command=command)
    console.print(f"samples  {page}", highlight=False, soft_wrap=True)
    return 0


def show(
    overrides: Sequence[str] = (),
    split: Split | None = None,
    out: Path | None = None,
    *,
    command: str = "",
) -> Path:
    """A page of what a training with these overrides would feed its network; the page's path.

    split: train by default, or the first that has images. out: `<outputs>/samples/<timestamp>/index.html` by
    default. command: what was typed, for the page. Raises ConfigError for the overrides, DataError where
    there are no images.
    """
    return _show(compose_for_data(overrides), split, out, command=command)


def show_run(
    run: str | Path,
    overrides: Sequence[str] = (),
    split: Split | None = None,
    out: Path | None = None,
    *,
    command: str = "",
) -> Path:
    """The same for a run, finished or not: what its network got, or would get of other data.

    overrides: `data=…`, `data.key=…`, `augment=…`, `seed=…`, `paths.…`, and `allow_targets=[…]`, which a run
    can't bring along. Raises ConfigError for any other, TapetumError where there is no run.
    """
    from ..runs.directory import open_run

    own = open_run(run)
    keys = [one.lstrip("+").split("=")[0] for one in overrides]
    for one, key in zip(overrides, keys, strict=True):
        if key.split(".")[0] not in _OF_A_RUN:
            raise ConfigError(
                f"{one} would change the run's network: show RUN takes data=…, data.key=…, augment=…, "
                "seed=…, paths.… and allow_targets=[…] only"
            )
    groups = [group for group in ("data", "augment") if group in keys]
    changes = [
        one
        for one, key in zip(overrides, keys, strict=True)
        if key.startswith(("data.", "augment.")) and key.split(".")[0] not in groups
    ]
    model = ANY_MODEL[own.read_config()["task"]]  # whose data are those of the run's task
    words = [one for one in overrides if one not in changes]
    other = compose(prepare([f"model={model}", *words], multirun=False)).config
    taken = [*groups, "allow_targets", "paths", *(["seed"] if "seed" in keys else [])]  # paths: of today
    config = replaced({**own.read_config(), **{key: other[key] for key in taken}}, changes)
    return _show(Composed(config, {}), split, out, run=own.path, command=command)


def _show(
    composed: Composed, split: Split | None, out: Path | None, *, run: Path | None = None, command: str
) -> Path:
    config = {**composed.config, "weights": None, "resume": None}
    check_config(Composed(config, composed.choices), need_files=False)
    from ..launch.libraries import load_libraries

    load_libraries()
    from ..reports.samples import SamplesPage, augment_steps, geometry_steps, write_samples
    from ..runs.building import build_datamodule, build_index, build_module, build_network_on_meta
    from ..runs.directory import stamp

    # Pixels are not kept, and no image that can't be read is hidden; the rest is as in training.
    config["data"] = {**config["data"], "cache": "none", "num_workers": 0, "on_bad_image": "skip"}
    index = build_index(config)
    counts = index.counts()
    if split is not None and split not in counts:
        there = " or ".join(f"split={one}" for one in counts)
        raise DataError(f"the {split} split of {places(config)} is empty: type {there}")
    chosen: Any = split or next(iter(counts))
    module: Any = build_module(config, build_network_on_meta(config), train=False)
    samples, unreadable = _Feed(build_datamodule(config, index, module), chosen).choose(config["seed"])
    spec = module.input_spec
    page = SamplesPage(
        title=str(config["name"]),
        split=chosen,
        size=spec.output_size,
        channels=spec.channels,
        steps=[
            *geometry_steps(spec, config["data"]["decoder"]),
            *(augment_steps(config["augment"], spec) if chosen == "train" else ()),
            "The network normalises the pixels itself, on its device; the pictures show what comes before.",
        ],
        counts=counts,
        generators=_by_generator(index),
        samples=samples,
        unreadable=unreadable,
        notes=[f"{note}: {count:,}" for note, count in index.notes.items()],
        limits=_limits(index, run, unreadable, len(samples)),
        facts=_facts(config, run),
        command=command,
    )
    out = out or Path(config["paths"]["outputs"]) / "samples" / stamp() / "index.html"
    try:
        return write_samples(page, out)
    except OSError as error:
        raise TapetumError(f"the page {out} can't be written: {error.strerror or error}") from error


class _Feed:
    """The data sets behind a DataModule's own loaders, asked for single images."""

    def __init__(self, data: Any, split: Split) -> None:
        import numpy as np

        from ..datamodules.detection import labels

        self.index: Index = data.index
        self.rows = self.index.rows(split)
        columns = self.index.table.column_names
        self.labels = labels(self.index) if "label" in columns else np.full(len(self.index), -1, np.int64)
        self.captions = self.index.table.column("captions") if "captions" in columns else None
        self.generators, self.names = self.index.codes("generator")
        self.spec, self.decoder = data.input_spec, data.decoder
        self.plain: Any = data.eval_dataloader(split).dataset
        self.trained: Any = data.train_dataloader().dataset if split == "train" else self.plain

    def choose(self, seed: int) -> tuple[list[Sample], list[Unreadable]]:
        """Up to SAMPLES readable images, balanced over classes and then generators; the others met."""
        import numpy as np

        from ..reports.samples import Unreadable

        waiting: dict[tuple[int, int], list[int]] = {}
        for row in np.random.default_rng(seed).permutation(self.rows).tolist():
            waiting.setdefault((int(self.labels[row]), int(self.generators[row])), []).append(row)
        found: list[tuple[tuple[int, int], Sample]] = []
        unreadable: list[Unreadable] = []
        shown: Counter[Any] = Counter()
        while waiting and len(found) < SAMPLES and len(unreadable) < MOST_UNREADABLE:
            group = min(waiting, key=lambda one: (shown[one[0]], shown[one]))
            row = waiting[group].pop()
            if not waiting[group]:
                del waiting[group]
            label, generator = self._class(row), self._generator(row)
            try:
                found.append((group, self._sample(row, label, generator)))
            except ImageError as error:
                unreadable.append(Unreadable(label, generator, self.index.location(row)[1], str(error)))
                continue
            shown.update((group[0], group))
        found.sort(key=lambda one: (one[0], one[1].path))
        return [sample for _, sample in found], unreadable

    def _sample(self, row: int, label: str, generator: str | None) -> Sample:
        from ..images.decode import decode, sniff
        from ..images.sources import read_bytes
        from ..reports.samples import Sample, size_text

        root, path = self.index.location(row)
        data = read_bytes(root, path)
        height, width = decode(data, channels=self.spec.channels, backend=self.decoder).shape[-2:]
        original = f"{size_text((height, width))} {sniff(data)}, {_bytes(len(data))}"
        texts = [] if self.captions is None else self.captions[row].as_py() or []
        return Sample(label, generator, path, original, list(self._frames(row)), texts)

    def _frames(self, row: int) -> Iterator[Frame]:
        """The image without augmentation, and three draws of one that is on."""
        from ..reports.samples import Frame

        augment = self.trained.augment
        if augment.deterministic and not augment.enlarge:
            yield Frame("", _pixels(self._image(self.plain, 0, row)))
            return
        yield Frame("not augmented", _pixels(self._image(self.plain, 0, row)))
        for epoch in EPOCHS[:1] if augment.deterministic else EPOCHS:
            name = "in training" if augment.deterministic else f"epoch {epoch + 1}"
            yield Frame(name, _pixels(self._image(self.trained, epoch, row)))

    def _image(self, dataset: Any, epoch: int, row: int) -> Tensor:
        """One image of a batch of one, as the loader would hand it out; ImageError where it can't be read."""
        loaded = dataset.__getitems__([(epoch, row)])
        if loaded.bad:
            raise ImageError(loaded.bad[row])
        image: Tensor = loaded.batch["images"][0]
        return image

    def _class(self, row: int) -> str:
        """What the counts call an image; without classes they are all `images`."""
        return self.index.class_name(self.labels[row]) if self.labels[row] >= 0 else "images"

    def _generator(self, row: int) -> str | None:
        code = int(self.generators[row])
        return self.names[code] if code >= 0 else None


# -- helpers -----------------------------------------------------------------------------------------------


def _split(given: Sequence[str]) -> Split | None:
    from typing import get_args

    from ..indexes.table import Split

    known = get_args(Split)
    for value in given:
        if value not in known:
            raise ConfigError(
                f"unknown value split={value}{did_you_mean(value, known) or ':'} {', '.join(known)}"
            )
    return cast("Split", given[-1]) if given else None


def _pixels(image: Tensor) -> Any:
    """uint8 [h, w] or [h, w, 3] of what a network gets: uint8 or float in [0, 1], [C, h, w]."""
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().byte()
    return image[0].numpy() if image.shape[0] == 1 else image.permute(1, 2, 0).contiguous().numpy()


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def _by_generator(index: Index) -> list[tuple[str, str | None, dict[str, int]]]:
    """(class, generator, split → images) of every pair that there is; nothing where no row names one."""
    if not index.generators():
        return []
    table = index.table.group_by(["label", "generator", "split"]).aggregate([([], "count_all")])
    found: dict[tuple[int, bool, str], dict[str, int]] = {}
    for row in table.to_pylist():
        key = (row["label"], row["generator"] is None, row["generator"] or "")
        found.setdefault(key, {})[row["split"]] = row["count_all"]
    return [
        (index.class_name(label), None if unnamed else name, counted)
        for (label, unnamed, name), counted in sorted(found.items())
    ]


def _limits(index: Index, run: Path | None, unreadable: Sequence[Unreadable], shown: int) -> list[str]:
    """What a reader may take wrongly."""
    said = []
    trained_on = _fingerprint(run)
    if trained_on not in (None, index.fingerprint):
        said.append(
            "These are not the images that the run was trained on: other data was named, or files came, went "
            "or changed since."
        )
    if unreadable:
        images = "1 image" if len(unreadable) == 1 else f"{len(unreadable)} images"
        gave_up = shown < SAMPLES and len(unreadable) >= MOST_UNREADABLE
        said.append(
            f"{images} of the {shown + len(unreadable)} drawn could not be read; the reasons stand below."
            + (" No more were tried." if gave_up else "")
        )
    return said


def _fingerprint(run: Path | None) -> str | None:
    """Of the Index that a run was trained on, None before its first checkpoint."""
    if run is None:
        return None
    for file in sorted((run / "checkpoints").glob("*.json")):
        found = json.loads(file.read_text()).get("index")
        if found:
            return str(found)
    return None


def _facts(config: Mapping[str, Any], run: Path | None) -> list[tuple[str, str]]:
    from ..reports.format import plain

    data = [(name, one["data"]) for name, one in each(config).items()]
    own = [
        (f"{name}: {key}" if name else key, value)
        for name, node in data
        for key, value in (
            ("layout", str(node["index"]["_target_"])),
            ("root", str(node["root"])),
            *((key, plain(node[key])) for key in ("roots", "limit") if node[key]),
            ("val_fraction", plain(node["val_fraction"])),
        )
    ]
    return [
        *([("run", str(run))] if run is not None else []),
        ("network", str(config["model"]["net"]["_target_"])),
        *own,
        *([("sampler", plain(config["data"]["sampler"]))] if config["data"].get("sampler") else []),
        ("seed", str(config["seed"])),
    ]
