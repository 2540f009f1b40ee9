"""Images and what is asked of them: conversations of an Index, or one question about all of its images."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ConfigError
from ..images.augment import Augment
from ..images.decode import Backend
from ..images.geometry import InputSpec
from ..indexes.table import Index
from .captions import Columns
from .conversations import (
    ConversationColumns,
    EncodeConversations,
    OfLabels,
    PromptColumns,
    Question,
    conversations_of,
)
from .dataset import OnBadImage
from .detection import draw_weights, labels
from .images import ImageDataModule
from .kept import Progress
from .length_batches import LengthBatchSampler
from .reading import ImageReader, Reader, SeveralImages
from .samplers import EpochBatchSampler, EpochSampler, Rows, SamplerName


class VLMDataModule(ImageDataModule):
    """Batches of `VLMBatch` out of an Index with `messages`, or with labels and a question.

    encode: the network's `encode_fn`; None for one that can't read yet: batches are then looked at, and not
        learnt from. question: asked of every image of an Index without `messages`; its answers stand for the
        labels. sampler: of such an Index, see DetectionDataModule.
    length_buckets: conversations of about one length share a batch.
    The rest is ImageDataModule's.
    """

    def __init__(
        self,
        index: Index,
        input_spec: InputSpec,
        *,
        encode: EncodeConversations | None,
        question: Question | None,
        augment: Augment,
        seed: int,
        cache_dir: Path,
        batch_size: int = 4,
        eval_batch_size: int = 16,
        num_workers: int = 0,
        cache: Literal["none", "decoded", "features"] = "none",
        on_bad_image: OnBadImage = "raise",
        decoder: Backend = "fast",
        sampler: SamplerName | None = None,
        length_buckets: bool = False,
        progress: Progress | None = None,
        network: nn.Module | None = None,
        precision: str = "32-true",
    ) -> None:
        super().__init__(
            index,
            input_spec,
            augment=augment,
            seed=seed,
            cache_dir=cache_dir,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            cache=cache,
            on_bad_image=on_bad_image,
            decoder=decoder,
            progress=progress,
            network=network,
            precision=precision,
        )
        self.encode = encode
        self.conversations = conversations_of(index, question)
        self.asks = isinstance(self.conversations, OfLabels)
        self.sampler = sampler
        self.length_buckets = length_buckets
        self.image_counts = _image_counts(index)
        if sampler is not None and not self.asks:
            raise ConfigError(f"data.sampler={sampler} draws classes, and conversations have none: null")
        if cache != "none" and (self.image_counts > 1).any():
            raise ConfigError(
                f"data.cache={cache} keeps one image a row, and {int((self.image_counts > 1).sum())} "
                "conversations show several: type data.cache=none"
            )
        self._lengths: dict[int, int] = {}

    def reader(self) -> Reader:
        """One image a row, or several."""
        kind = SeveralImages if (self.image_counts > 1).any() else ImageReader
        return kind(self.index, self.input_spec.channels, self.decoder)

    def columns(self) -> dict[str, NDArray[np.int64]]:
        """Labels and generators of a detection index, nothing of conversations."""
        if not self.asks:
            return {}
        return {"labels": labels(self.index), "generators": self.index.codes("generator")[0]}

    def texts_of(self, *, train: bool) -> Columns:
        """Conversations; in evaluation the prompts apart, too."""
        return ConversationColumns(self.encode, self.conversations, self.image_counts, prompts=not train)

    def train_batches(self, rows: Rows, *, repeat: bool) -> EpochBatchSampler:
        """A permutation of the rows, or draws by weight."""
        weights = None
        if self.sampler is not None:
            generators = self.index.codes("generator")[0]
            weights = draw_weights(self.sampler, labels(self.index)[rows], generators[rows])
        sampler = EpochSampler(rows, seed=self.seed, weights=weights, repeat=repeat)
        if not self.length_buckets or self.encode is None:
            return EpochBatchSampler(sampler, self.batch_size, self.shard())
        if not self._lengths:
            found = self.encode.lengths([self.conversations(row) for row in rows.tolist()])
            self._lengths = dict(zip(rows.tolist(), found.tolist(), strict=True))
        return LengthBatchSampler(sampler, self.batch_size, self.shard(), self._lengths_of)

    def features_of(self, batch: Mapping[str, Any], device: torch.device) -> Tensor:
        """As ImageDataModule: of images and the prompts that are asked of them."""
        network: Any = self.network
        inputs = {name: value.to(device) for name, value in batch["inputs"].items()}
        found: Tensor = network.frozen_features(batch["images"].to(device), inputs)
        return found

    def feature_texts(self) -> Columns | None:
        """The prompts, of which a Q-Former makes something."""
        return None if self.encode is None else PromptColumns(self.encode, self.conversations)

    def feature_key(self) -> str:
        """The frozen weights and, where it is the config's and not the Index's, the question."""
        asked = self.conversations.question.prompt if isinstance(self.conversations, OfLabels) else ""
        return f"{super().feature_key()}-{blake2b(asked.encode(), digest_size=8).hexdigest()}"

    def _lengths_of(self, epoch: int, rows: Rows) -> NDArray[np.int64]:
        return np.array([self._lengths[row] for row in rows.tolist()], np.int64)


def _image_counts(index: Index) -> NDArray[np.int64]:
    """int64 [n]: images of each row."""
    counts = np.ones(len(index), np.int64)
    if "further_images" in index.table.column_names:
        further = pc.fill_null(pc.list_value_length(index.table.column("further_images")), 0)
        counts += further.to_numpy().astype(np.int64)
    return counts
