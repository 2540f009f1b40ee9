"""What a frozen tower returns, kept: every image passes through it once, then is read memory-mapped.

A cache is a directory: `features.bin` [n, …] in the tower's own type, `rows.u8` with a state for each row of
the Index, `bad.jsonl` with the rows that could not be read, and `cache.json`, which says what is in them and
of what. Rows are computed when a split is first asked for; a build that was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backbones.frozen import FrozenFeatures
from ..backbones.precision import autocast
from ..errors import ConfigError, DataError
from ..images.augment import Augment
from ..images.geometry import InputSpec
from .kept import Progress, identity_of, kept_at, no_room
from .reading import Reader
from .samplers import Rows

Read = Callable[[Rows, dict[int, str]], Iterable[Mapping[str, Any]]]
FeaturesOf = Callable[[Mapping[str, Any], torch.device], Tensor]

_FORMAT = 1  # raised when the same facts would be kept in another way
_MISSING, _KEPT, _BAD = 0, 1, 2
_COMMIT_SECONDS = 10.0  # work that a killed build may lose


class FeatureCache:
    """Features of an Index's images, read by row; safe across threads and processes."""

    def __init__(self, directory: Path) -> None:
        described = _described(directory) or {"shape": [0], "dtype": "float32"}
        self.directory = directory
        self.shape: tuple[int, ...] = tuple(described["shape"])
        self.dtype: torch.dtype = getattr(torch, described["dtype"])
        self.bad = _read_bad(directory)
        self._bytes: NDArray[np.uint8] | None = None

    def take(self, rows: Sequence[int]) -> Tensor:
        """float [len(rows), …], a copy, in the type that the tower returned; rows that are kept only."""
        if not rows:
            return torch.empty((0, *self.shape), dtype=self.dtype)
        if self._bytes is None:
            width = math.prod(self.shape) * self.dtype.itemsize
            kept = np.memmap(self.directory / "features.bin", np.uint8, "r")
            self._bytes = np.asarray(kept[: len(kept) // width * width]).reshape(-1, width)
        return torch.from_numpy(self._bytes[rows]).view(self.dtype).reshape(len(rows), *self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}  # each process maps the file for itself


def feature_cache(
    reader: Reader,
    spec: InputSpec,
    augment: Augment,
    network: nn.Module,
    rows: Rows,
    *,
    read: Read,
    features_of: FeaturesOf,
    weights: str,
    precision: str,
    cache: Path,
    progress: Progress | None = None,
) -> FeatureCache:
    """The cache of this reader, geometry, network and precision, in which at least `rows` are kept.

    network: a `FrozenFeatures`, on the device on which what is missing is computed; others wait for the
        process that is first. weights: its `cache_key()`.
    read: rows and a dict for the unreadable ones (row → reason) to batches with `images` and `index`.
    features_of: such a batch to what the network's frozen part makes of it, float [B, …] on a device.
    precision: a name of the Trainer's; features are what the tower returns under it, nothing is rounded.
    Raises ConfigError for what can't be cached (see `feature_problems`), DataError where the disk has no room
    or the index does not know its files.
    """
    problems = feature_problems(network, augment)
    if problems:
        raise ConfigError(problems)
    device = next(network.parameters()).device
    identity = {
        **identity_of(reader, spec, augment),
        "format": _FORMAT,
        "crop": spec.crop,
        "weights": weights,
        "autocast": precision if "mixed" in precision else None,  # else it is the type of the weights
        "device": device.type,
    }
    with kept_at(cache, "features", identity) as directory:
        build = _Build(directory, identity, rows)
        if len(build.missing):
            try:
                _compute(build, network, read, features_of, device, precision, progress)
            finally:
                build.commit()
    return FeatureCache(directory)


def feature_problems(network: object, augment: Augment) -> list[str]:
    """Why features of this network can't be kept, or [].

    Whether anything is frozen in a network that can be is told by its `frozen_features`.
    """
    problems = []
    if not isinstance(network, FrozenFeatures):
        problems.append(
            f"data.cache=features keeps what a frozen tower returns, and {type(network).__name__} has none: "
            f"type data.cache=decoded, or a model=NAME that has (clip_linear, timm_backbone with "
            f"model.net.freeze=true, for captions clip_qwen)"
        )
    if not augment.deterministic:
        problems.append(
            "data.cache=features computes every image once, and augment draws another one in each epoch: "
            "type augment=none, or data.cache=none"
        )
    return problems


def frozen_features(network: FrozenFeatures, images: Tensor | list[Tensor]) -> Tensor:
    """float [B, …] of images [B, C, H, W], or of a list of [C, h, w], on the network's device.

    Raises ConfigError where images of different sizes have features of different shapes.
    """
    if not isinstance(images, list):
        return network.frozen_features(images)
    found = [network.frozen_features(image.unsqueeze(0)) for image in images]
    shapes = {tuple(one.shape[1:]) for one in found}
    if len(shapes) > 1:
        raise _other_shape(shapes)
    return torch.cat(found)


class _Build:
    """A cache's directory being filled: rows count as kept once their features are on the disk."""

    def __init__(self, directory: Path, identity: Mapping[str, Any], rows: Rows) -> None:
        directory.mkdir(exist_ok=True)
        self.directory, self.identity = directory, identity
        states = directory / "rows.u8"
        if not states.is_file():
            _replace(states, bytes(identity["images"]))
        self.states = np.fromfile(states, np.uint8)
        if len(self.states) != identity["images"]:
            raise DataError(f"{states} is damaged: remove {directory}, and it is built again")
        self.missing: Rows = rows[self.states[rows] == _MISSING]
        self.total = len(rows)
        self._described = _described(directory)
        self._waiting: list[tuple[NDArray[np.int64], int]] = []
        self._committed = time.monotonic()
        self._bad: dict[int, str] = {}
        self._has_room = False

    def write(self, rows: Rows, features: Tensor) -> None:
        """Features [B, …] of rows, on any device; DataError before the first one where there is no room."""
        self._check_room(features)
        self._describe(features)
        content = features.detach().cpu().contiguous()
        width = content[0].nbytes
        raw = content.reshape(len(rows), -1).view(torch.uint8).numpy()
        try:
            with (self.directory / "features.bin").open("r+b") as file:
                for row, one in zip(rows.tolist(), raw, strict=True):
                    file.seek(row * width)
                    file.write(one.data)
        except OSError as error:
            raise no_room("features", len(self.missing) * width, self.directory, error.strerror) from error
        self._waiting.append((rows, _KEPT))
        if time.monotonic() - self._committed > _COMMIT_SECONDS:
            self.commit()

    def leave_out(self, bad: dict[int, str]) -> None:
        """Rows that could not be read, with the reasons; taken out of `bad`."""
        self._bad |= bad
        self._waiting.append((np.fromiter(bad, np.int64, len(bad)), _BAD))
        bad.clear()

    def commit(self) -> None:
        """Features first, then what says that they are there."""
        if not self._waiting:
            return
        features = self.directory / "features.bin"
        if features.is_file():
            with features.open("r+b") as file:
                os.fsync(file.fileno())
        if self._bad:
            with (self.directory / "bad.jsonl").open("a") as file:
                file.writelines(json.dumps([row, self._bad[row]]) + "\n" for row in sorted(self._bad))
                file.flush()
                os.fsync(file.fileno())
        for rows, state in self._waiting:
            self.states[rows] = state
        _replace(self.directory / "rows.u8", self.states.tobytes())
        self._waiting, self._bad = [], {}
        self._committed = time.monotonic()

    def _describe(self, features: Tensor) -> None:
        shape, dtype = list(features.shape[1:]), str(features.dtype).removeprefix("torch.")
        if self._described is None:
            (self.directory / "features.bin").touch()
            self._described = {"shape": shape, "dtype": dtype, "of": self.identity}
            _replace(self.directory / "cache.json", json.dumps(self._described, indent=2).encode())
        if [shape, dtype] != [self._described["shape"], self._described["dtype"]]:
            raise _other_shape([tuple(self._described["shape"]), tuple(shape)])

    def _check_room(self, features: Tensor) -> None:
        size = len(self.missing) * features[0].nbytes
        free = shutil.disk_usage(self.directory).free
        if not self._has_room and size > free:
            raise no_room("features", size, self.directory, f"{free / 1e9:.2f} GB are free")
        self._has_room = True


def _compute(
    build: _Build,
    network: nn.Module,
    read: Read,
    features_of: FeaturesOf,
    device: torch.device,
    precision: str,
    progress: Progress | None,
) -> None:
    """Every missing row through the tower, in eval mode and in the precision of the run."""
    training, done, bad = network.training, build.total - len(build.missing), dict[int, str]()
    network.eval()
    try:
        # Not inference_mode: what a network may make once and keep has to serve the training as well.
        with torch.no_grad(), autocast(device, precision):
            for batch in read(build.missing, bad):
                done += len(batch["index"]) + len(bad)
                if bad:
                    build.leave_out(bad)
                if len(batch["index"]):
                    build.write(batch["index"].numpy(), features_of(batch, device))
                if progress is not None:
                    progress(done, build.total)
    finally:
        network.train(training)


def _described(directory: Path) -> dict[str, Any] | None:
    file = directory / "cache.json"
    if not file.is_file():
        return None
    described: dict[str, Any] = json.loads(file.read_text())
    return described


def _read_bad(directory: Path) -> dict[int, str]:
    file = directory / "bad.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return {int(row): str(reason) for row, reason in map(json.loads, lines)}


def _replace(file: Path, content: bytes) -> None:
    """Whole or not at all."""
    unfinished = file.with_suffix(".tmp")
    with unfinished.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    unfinished.replace(file)


def _other_shape(shapes: Iterable[tuple[int, ...]]) -> ConfigError:
    found = " and ".join(str(list(shape)) for shape in sorted(shapes))
    return ConfigError(
        f"data.cache=features keeps features of one shape, but images of different sizes have {found}: type "
        f"data.cache=none, or one size for all (model.geometry.size=224 model.geometry.resize=squash)"
    )
