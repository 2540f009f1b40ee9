"""A radiometric map that is fitted on the training images, before anything is learnt from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..indexes.table import Index
    from ..runs.directory import RunDirectory

log = logging.getLogger("tapetum")


def with_fitted_map(run: RunDirectory, config: Mapping[str, Any], index: Index) -> dict[str, Any]:
    """The config with `data.radiometry` as it was fitted, which also stands in `radiometry.json` of the run.

    A map that needs no fit stays as it is. A run that goes on takes its map from the file, so that the same
    counts are the same grey for as long as these weights are used.
    """
    from dataclasses import asdict

    from ..config.build import build
    from ..images.infrared import DatasetPercentile
    from ..runs.directory import write_json

    node = config["data"].get("radiometry")
    if node is None:
        return dict(config)
    fitted = build(node, allow=config["allow_targets"])
    if not isinstance(fitted, DatasetPercentile):
        return dict(config)
    file = run.path / "radiometry.json"
    if file.is_file():
        found = json.loads(file.read_text())
    else:
        window = fitted.fit(_levels(config, index, fitted.images))
        found = {"_target_": f"{type(window).__module__}.{type(window).__qualname__}", **asdict(window)}
        write_json(file, found)
        log.info("radiometry: %s, fitted on the training images", window)
    return {**config, "data": {**config["data"], "radiometry": found}}


def _levels(config: Mapping[str, Any], index: Index, most: int) -> Iterator[Tensor]:
    """Stored levels of training images, at most so many of the infrared ones, drawn by the run's seed."""
    import numpy as np

    from ..datamodules.reading import InfraredReader
    from ..errors import DataError, ImageError

    reader = InfraredReader(index, 1, config["data"]["decoder"])
    kinds, names = index.codes("modality")
    rows = index.rows("train")
    if "infrared" in names:
        rows = rows[kinds[rows] == names.index("infrared")]
    chosen = np.random.default_rng(config["seed"]).permutation(rows)[:most]
    for row in np.sort(chosen).tolist():
        try:
            yield reader.levels(row)
        except ImageError as error:  # on_bad_image=skip leaves it out of the training as well
            if config["data"]["on_bad_image"] != "skip":
                root, path = index.location(row)
                raise DataError(f"image {root / path} can't be used: {error}") from error
