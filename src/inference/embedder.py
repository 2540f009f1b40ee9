"""An embedder in Python: `tapetum.load(run).embed(images)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..config.build import build
from ..config.targets import walk_targets
from ..errors import ConfigError
from ..images.infrared import Radiometry
from .embed import embeddings
from .items import InfraredItem, Item, read_infrared_item, read_item
from .stream import Answering
from .trained import Trained, check_several
from .verdicts import Rule, Threshold

if TYPE_CHECKING:  # detectors must not wait for pytorch-metric-learning
    from ..modules.retrieval import RetrievalModule

_MAPS = "tapetum.images.infrared."


@dataclass(frozen=True)
class Embedder(Trained):
    """A retrieval network: an `embedding`, a vector of length 1, of each image.

    radiometry: from stored levels to [0, 1], as the run was trained. infrared: whether images are read as
        infrared ones; else as pictures in colour.

    Infrared arrays are uint8 or uint16 levels, or floats already mapped to [0, 1], of [H, W], [H, W, 1] or
    [H, W, 3]; others are uint8 [H, W] or [H, W, 3].
    """

    radiometry: Radiometry | None = None
    infrared: bool = False

    @property
    def dimension(self) -> int:
        """Numbers in an embedding."""
        return int(self.module.net.dimension)  # type: ignore[union-attr,arg-type]

    def embed(
        self, images: Sequence[Item | InfraredItem], batch_size: int = 32, *, workers: int | None = None
    ) -> NDArray[np.float32]:
        """float32 [N, D] vectors of length 1, in order.

        images: paths, PIL images or arrays, see the class. Raises DataError naming the first that is empty,
        not finite, of a wrong shape or kind, or can't be read.
        """
        check_several(images, "embed")
        return vectors_of(self.predict(images, batch_size, workers=workers)["embedding"])

    def rule(self, threshold: Threshold | None = None) -> Rule:
        """Raises ConfigError: an embedder gives no verdicts."""
        raise ConfigError(
            f"{'' if threshold is None else f'threshold={threshold}: '}this model embeds images and gives no "
            "verdicts, so that there is no threshold: leave it out. Classes come of a gallery: type tapetum "
            "gallery RUN gallery.parquet, then tapetum search gallery.parquet IMAGE"
        )

    def described(self, threshold: Threshold | None = None) -> str:
        """How long a vector is, and how images are read."""
        if threshold is not None:
            self.rule(threshold)
        how = "infrared images" if self.infrared else "images in colour"
        through = "" if self.radiometry is None else f", levels mapped by {self.radiometry}"
        return f"embeddings of {self.dimension} numbers and length 1; read as {how}{through}"

    def answering(self, threshold: Threshold | None = None) -> Answering:
        """Embeddings."""
        if threshold is not None:
            self.rule(threshold)
        module = cast("RetrievalModule", self.module)
        spec, backend = module.input_spec, self.config["data"]["decoder"]
        dimension = self.dimension
        return Answering(
            read=partial(read_infrared_item, spec=spec, radiometry=self.radiometry, backend=backend)
            if self.infrared
            else partial(read_item, spec=spec, backend=backend),
            answer=partial(embeddings, module, device=self.device),
            shape=(dimension,),
            fields=[pa.field("embedding", pa.list_(pa.float32(), dimension))],
            columns=lambda vectors: {"embedding": vectors_to_arrow(vectors)},
        )


def radiometry_of(config: Mapping[str, Any]) -> Radiometry | None:
    """The map of `data.radiometry`, None where there is none.

    The config may be a checkpoint's and is untrusted: ConfigError for a `_target_` that is neither a map of
    tapetum nor of a package in allow_targets.
    """
    node = config["data"].get("radiometry")
    if node is None:
        return None
    allow = config["allow_targets"]
    for key, found in walk_targets(node, "data.radiometry"):
        target = str(found["_target_"])
        if not target.startswith((_MAPS, *(f"{package}." for package in allow))):
            raise ConfigError(f"{key}._target_={target} is no radiometric map, such as {_MAPS}FullRange")
    radiometry: Radiometry = build(node, allow=allow)
    return radiometry


def takes_infrared(metadata: Mapping[str, Any], radiometry: Radiometry | None) -> bool:
    """Whether what was learnt from was infrared; where the data did not say, a map says so."""
    return radiometry is not None or list(metadata.get("modalities") or []) == ["infrared"]


def vectors_to_arrow(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """float32 [N, D] as a column of lists of D."""
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def vectors_of(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """float32 [N, D], one's own, of a column of lists of D without nulls."""
    vectors = np.empty((len(column), column.type.list_size), np.float32)
    row = 0
    for chunk in column.chunks:
        vectors[row : row + len(chunk)] = chunk.flatten().to_numpy().reshape(-1, vectors.shape[1])
        row += len(chunk)
    return vectors
