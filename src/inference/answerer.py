"""A vision-language model in Python: `tapetum.load(run).ask(images, "What is this?")`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..datamodules.conversations import Question
from ..errors import ConfigError
from ..metrics.answers import chosen
from ..modules.vlm import VLMModule
from .detector import Predictor
from .items import InfraredItem, Item, read_item
from .output import SCHEMA
from .stream import Answering
from .trained import check_several
from .verdicts import Rule, Threshold

_WRITTEN = (
    pa.field("text", pa.string()),
    pa.field("valid", pa.bool_()),
    pa.field("log_likelihood_real", pa.float32()),
    pa.field("log_likelihood_generated", pa.float32()),
)
_FREE = (pa.field("text", pa.string()),)


@dataclass(frozen=True)
class Answerer(Predictor):
    """A vision-language model: of a question with two answers what a detector gives, the text, whether it is
    `valid`, and both log-likelihoods; of any other the `text` alone. Arrays are uint8 [H, W] or [H, W, 3].
    """

    def ask(
        self, images: Sequence[Item], prompt: str, batch_size: int = 16, *, workers: int | None = None
    ) -> list[str]:
        """What the model answers to one question about each image, in order; paths, PIL images or arrays.

        Raises DataError naming the first that can't be read.
        """
        check_several(images, "ask")
        module = cast(VLMModule, self.module)
        own = module.question
        module.ask(Question(prompt), module.answer_score)
        try:
            found: list[str] = self.predict(images, batch_size, workers=workers)["text"].to_pylist()
        finally:
            module.ask(own, module.answer_score)
        return found

    def embed(
        self, images: Sequence[Item | InfraredItem], batch_size: int = 32, *, workers: int | None = None
    ) -> NDArray[np.float32]:
        """Raises ConfigError: a vision-language model has no embeddings."""
        raise ConfigError(
            "this model answers questions, and has no embeddings. Type .predict(images) or "
            ".ask(images, prompt), or load a run of retrieval (python train.py model=small_embedder)"
        )

    def rule(self, threshold: Threshold | None = None) -> Rule:
        """As Predictor; ConfigError where no question with two answers is asked."""
        if not self._judges:
            raise ConfigError(
                f"{'' if threshold is None else f'threshold={threshold}: '}no question with two answers is "
                "asked, so that there is no verdict: type model.prompt='…' model.answers=[real,fake]"
            )
        return super().rule(threshold)

    def described(self, threshold: Threshold | None = None) -> str:
        """What is asked, and the rule of verdicts."""
        asked = self._asked
        said = f"asked “{asked.prompt}”"
        if not self._judges:
            if threshold is not None:
                self.rule(threshold)
            return f"{said}, {cast(VLMModule, self.module).generation}"
        return f"{said}, real is “{asked.answers[0]}”, generated “{asked.answers[1]}”; {self.rule(threshold)}"

    def answering(self, threshold: Threshold | None = None) -> Answering:
        """Answers, and what the rule says of their likelihoods."""
        module, asked = cast(VLMModule, self.module), self._asked
        rule = self.rule(threshold) if self._judges or threshold is not None else None
        encode = module.encode_fn()
        width = len(asked.answers)
        return Answering(
            read=partial(read_item, spec=module.input_spec, backend=self.config["data"]["decoder"]),
            answer=partial(_answers, module, encode, asked, device=self.device),
            shape=(width + module.generation.max_new_tokens,),
            fields=[*(list(SCHEMA)[1:] if rule else ()), *(_WRITTEN if rule else _FREE)],
            columns=partial(_columns, encode, asked, rule),
        )

    @property
    def _asked(self) -> Question:
        found = cast(VLMModule, self.module).question
        if found is None:
            raise ConfigError(
                "this model was trained on conversations, and nothing is asked: type "
                "model.prompt='What is in this image?', or in Python .ask(images, prompt)"
            )
        return found

    @property
    def _judges(self) -> bool:
        return bool(self._asked.answers)


def _answers(
    module: VLMModule, encode: Any, asked: Question, images: Tensor | list[Tensor], device: torch.device
) -> Tensor:
    """float32 [B, K + T]: log-likelihoods of the K answers, then the tokens that were written, padded by -1.

    Numbers of tokens are whole in float32 up to 16 million.
    """
    assert isinstance(images, Tensor), "encode_fn has made sure that images have one size"
    net: Any = module.net  # every network of the task has these
    encoded = encode.prompts([asked.asked()] * len(images))
    prompts = {name: value.to(device) for name, value in encoded.items()}
    visual = net(images.to(device), prompts)
    written = net.generate(visual, prompts, module.generation)
    behind = torch.arange(written.tokens.shape[1], device=device) >= written.lengths[:, None]
    tokens = written.tokens.masked_fill(behind, -1).float()
    tokens = F.pad(tokens, (0, module.generation.max_new_tokens - tokens.shape[1]), value=-1.0)
    if not asked.answers:
        return tokens
    return torch.cat([module.log_likelihoods(visual, prompts).float(), tokens], dim=1)


def _columns(
    encode: Any, asked: Question, rule: Rule | None, found: NDArray[np.float32]
) -> Mapping[str, Any]:
    scores, tokens = found[:, : len(asked.answers)], found[:, len(asked.answers) :]
    texts: list[str] = encode.decode([[int(one) for one in row if one >= 0] for row in tokens])
    if rule is None:
        return {"text": texts}
    logits = np.ascontiguousarray(scores[:, 1] - scores[:, 0], np.float32)
    return {
        "logit": logits,
        **rule.judge(logits),
        "text": texts,
        "valid": [chosen(text, asked.answers) is not None for text in texts],
        "log_likelihood_real": scores[:, 0],
        "log_likelihood_generated": scores[:, 1],
    }
