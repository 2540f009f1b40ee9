"""Training a vision-language model: the loss of its answers, and a validation that judges and writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..datamodules.batches import VLMBatch
from ..datamodules.conversations import Question
from ..errors import ConfigError, DataError
from ..metrics.answers import answer_metrics, chosen
from ..metrics.binary import binary_metrics
from ..metrics.thresholds import Thresholds
from .network import gathered
from .text import TextModule, all_written, mean_nll, perplexity

AnswerScore = Literal["mean", "sum"]


class VLMModule(TextModule):
    """A network that answers questions about images, made trainable.

    net: a `vlms.network.VisionLanguageModel`, or a network with its methods.
    prompt, answers: asked of images that have labels and no conversations: the question, and the answers of a
        real image and of a generated one. Each image's logit is then the score of the second answer minus
        that of the first, so that it is judged like any detector's; both null where there is nothing to ask.
    answer_score: of an answer of several tokens, the `mean` of their log-likelihoods or the `sum`.
    thresholds: where verdicts change, as in `metrics.thresholds`.
    The rest is TextModule's.
    """

    cut_figure = "train/truncated_answers"

    def __init__(
        self,
        net: nn.Module,
        *,
        prompt: str | None = None,
        answers: Sequence[str] | None = None,
        answer_score: AnswerScore = "mean",
        thresholds: Mapping[str, float] | None = None,
        generation: Mapping[str, Any] | None = None,
        generate_every_n_epochs: int = 1,
        generate_images: int | None = 200,
        optimizer: partial[Optimizer] | None = None,
        scheduler: partial[Any] | None = None,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] = "min",
        geometry: Mapping[str, Any] | None = None,
        backbone_lr: float | None = None,
        channels_last: bool = False,
        log_every_n_steps: int = 20,
        fit: bool = True,
    ) -> None:
        super().__init__(
            net,
            generation=generation,
            generate_every_n_epochs=generate_every_n_epochs,
            generate_images=generate_images,
            optimizer=optimizer,
            scheduler=scheduler,
            monitor=monitor,
            mode=mode,
            geometry=geometry,
            backbone_lr=backbone_lr,
            channels_last=channels_last,
            log_every_n_steps=log_every_n_steps,
            fit=fit,
        )
        self.thresholds = Thresholds(**(thresholds or {}))
        self.ask(question(prompt, answers), answer_score)
        self._seen: list[dict[str, Tensor]] = []
        self._written: dict[int, str] = {}
        self._answers: dict[int, str] = {}

    def ask(self, asked: Question | None, answer_score: AnswerScore) -> None:
        """From here on ask this, and score its answers so; None where the data brings its own questions."""
        if answer_score not in get_args(AnswerScore):
            raise ConfigError(f"unknown value model.answer_score={answer_score}: mean, sum")
        self.question = asked
        self.answer_score: AnswerScore = answer_score
        self._candidates: list[list[int]] | None = None

    def encode_fn(self) -> Any:
        """The network's encoder for images of this module's geometry: picklable, without weights.

        Raises ConfigError where the geometry leaves images their own sizes, or for answers that the tokenizer
        does not tell apart.
        """
        size = self.input_spec.output_size
        net: Any = self.net  # every network of the task has these
        net.check_size(size)
        encode = net.encode_fn(size)
        if self.question is not None and self.question.answers:
            check_answers(encode, self.question, net.max_target_token_length)
        return encode

    @property
    def candidates(self) -> list[list[int]]:
        """The tokens of the question's answers."""
        assert self.question is not None, "only images with labels are judged"
        if self._candidates is None:
            self._candidates = self.encode_fn().candidates(self.question.asked(), self.question.answers)
        return self._candidates

    # -- what a batch is worth ------------------------------------------------------------------------------

    def outputs(self, batch: Mapping[str, Any]) -> Tensor:
        """Visual features of a batch's images, or of the features kept of them."""
        net: Any = self.net
        if "features" in batch:
            kept: Tensor = net.forward_features(batch["features"], batch["inputs"])
            return kept
        found: Tensor = net(batch["images"], batch["inputs"])
        return found

    def compute_loss(self, visual: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(float32 [N], int64 [N]): sum of the negative log-likelihoods of each row's answer tokens, and how
        many these are. The method to override.
        """
        found = self.net.loss(visual, inputs)  # type: ignore[operator]
        return found.totals, found.counts

    def log_likelihoods(self, visual: Tensor, prompts: Mapping[str, Tensor]) -> Tensor:
        """float32 [N, 2]: of the answer of a real image and of a generated one, as `answer_score` has it."""
        found: Tensor = self.net.score(visual, prompts, self.candidates)  # type: ignore[operator]
        if self.answer_score == "mean":
            found = found / torch.tensor([len(one) for one in self.candidates], device=found.device)
        return found

    def training_step(self, batch: VLMBatch, batch_idx: int) -> Tensor | None:
        """The sum over the batch's tokens, which `on_before_optimizer_step` divides; None without images."""
        if not len(batch["index"]):
            self.check_alone()
            return None
        totals, counts = self.compute_loss(self.outputs(batch), batch["inputs"])
        return self.learn(totals, counts, batch["inputs"]["truncated"], batch["index"])

    def validation_step(self, batch: VLMBatch, batch_idx: int) -> None:
        """Loss of every answer; of images with labels its logit; of some an answer of one's own."""
        if not len(batch["index"]):
            return
        visual, prompts = self.outputs(batch), batch["prompts"]
        totals, counts = self.compute_loss(visual, batch["inputs"])
        seen = {"index": batch["index"], "totals": totals, "tokens": counts}
        if "labels" in batch:
            scores = self.log_likelihoods(visual, prompts)
            seen |= {"logits": scores[:, 1] - scores[:, 0], "labels": batch["labels"]}
        self._seen.append(seen)
        wanted = self.wanted(batch["index"])
        if len(wanted):
            several = len(visual) != len(batch["index"])
            chosen_rows = wanted if not several else torch.arange(len(batch["index"]))
            texts = self.net.generate(  # type: ignore[operator]
                visual if several else visual[wanted],
                prompts if several else {name: value[wanted] for name, value in prompts.items()},
                self.generation,
            ).texts
            rows = batch["index"].tolist()
            for place, text in zip(chosen_rows.tolist(), texts, strict=True):
                self._written[rows[place]] = text
                self._answers[rows[place]] = batch["texts"][place]

    # -- what is logged -------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start with nothing seen."""
        super().on_validation_epoch_start()
        self._seen, self._written, self._answers = [], {}, {}

    def on_validation_epoch_end(self) -> None:
        """val/loss and val/perplexity; of images with labels all of `binary_metrics`; where answers were
        written, what they are worth.
        """
        if not self._seen:
            raise DataError(
                "none of the validation images could be read: data.on_bad_image=raise names the first "
                "and says why"
            )
        seen = {name: torch.cat([part[name] for part in self._seen]) for name in self._seen[0]}
        written, answers = self._written, self._answers
        self._seen, self._written, self._answers = [], {}, {}
        if self.trainer.world_size > 1:
            seen = gathered(seen, self.all_gather)
            written = all_written(written, self.trainer.world_size)
            answers = all_written(answers, self.trainer.world_size)
        if self.trainer.sanity_checking:
            return
        loss = mean_nll(seen)
        figures = {"loss": loss, "perplexity": perplexity(loss)}
        if "labels" in seen:
            figures |= binary_metrics(seen["logits"].float().cpu(), seen["labels"].cpu())
        if written:
            rows = sorted(written)
            texts, right = [written[row] for row in rows], [answers[row] for row in rows]
            if "labels" in seen and self.question is not None:
                figures |= written_metrics(texts, right, self.question.answers)
            else:
                figures |= answer_metrics(texts, right)
        self.log_dict({**{f"val/{name}": value for name, value in figures.items()}, **self._when()})


def written_metrics(texts: Sequence[str], right: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Of written answers to a question with known ones: `written_accuracy`, where one that is neither is
    wrong, and `invalid`, the share of those.
    """
    said, meant = ([chosen(text, answers) for text in several] for several in (texts, right))
    hits = [one is not None and one == answer for one, answer in zip(said, meant, strict=True)]
    count = max(1, len(texts))
    return {"written_accuracy": sum(hits) / count, "invalid": sum(one is None for one in said) / count}


def check_answers(encode: Any, asked: Question, longest: int) -> None:
    """Raise ConfigError for answers that the tokenizer does not tell apart, or that would be cut."""
    lengths = [len(one) for one in encode.candidates(asked.asked(), asked.answers)]
    for answer, length in zip(asked.answers, lengths, strict=True):
        if length + 1 > longest:
            raise ConfigError(
                f"the answer {answer!r} of model.answers takes {length} tokens and its end, and "
                f"model.net.max_target_token_length={longest} would cut it: type "
                f"model.net.max_target_token_length={length + 1} or more"
            )


def question(prompt: str | None, answers: Sequence[str] | None) -> Question | None:
    """What a config asks; None for nothing. Raises ConfigError for answers without a question."""
    if prompt is None and answers is None:
        return None
    if prompt is None:
        raise ConfigError(
            f"model.answers={list(answers or ())} are answers without a question: type model.prompt='…', or "
            "model.answers=null where the data brings its own questions"
        )
    return Question(prompt, tuple(answers or ()))
