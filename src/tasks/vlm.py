"""Vision-language models: answers, judged as a detector's where the question is whether an image is real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from ..backbones.generation import Generation
from ..errors import ConfigError, DataError
from ..evaluation.detection import Interval
from ..evaluation.paired import Judged
from ..evaluation.vlm import (
    BASELINE,
    intervals,
    is_judged,
    of_conversations,
    of_generators,
    of_likelihood,
    of_written,
    prior_of,
    read_answers,
)
from ..images.geometry import with_geometry
from ..indexes.messages import IMAGE
from ..indexes.table import Index
from ..inference.answer import answer
from ..inference.predictions import answer_predictions, conversation_predictions
from ..metrics.thresholds import Thresholds
from ..modules.vlm import check_answers, question
from ..reports.answers import write_answers_report
from ..reports.answers_terminal import baseline_table, written_line
from ..reports.run import RunReport
from ..reports.terminal import metrics_table, run_line
from ..runs.trackers import Sample
from .detection import TASK as DETECTION
from .task import Predicted, Task

_OF_JUDGED = frozenset(
    f"val/{name}"
    for name in (
        *("accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "ap"),
        *("real_accuracy", "fake_accuracy", "written_accuracy", "invalid"),
    )
)
_OF_WRITTEN = frozenset(
    f"val/{name}" for name in ("exact_match", "token_f1", "rouge_l", "written_accuracy", "invalid")
)
_OF_CONVERSATIONS = frozenset(f"val/{name}" for name in ("exact_match", "token_f1", "rouge_l"))
_SAMPLES = 24
_LOOKED_AT = 5000  # conversations


class VLM(Task):
    """Images and what is asked of them."""

    samples_are = "answers"

    def facts(self, index: Index) -> dict[str, Any]:
        """The generators of judged images; of conversations nothing."""
        return DETECTION.facts(index) if _judges(index) else {}

    def settled(self, config: dict[str, Any], index: Index) -> dict[str, Any]:
        """Without a question where the data bring theirs, so that no run is asked what it never learnt."""
        if _judges(index):
            return config
        return {**config, "model": {**config["model"], "prompt": None, "answers": None}}

    def problems(self, config: Mapping[str, Any], index: Index) -> list[str]:
        """No question where one is needed, and figures that choose the checkpoint and are not there."""
        model, monitor = config["model"], config["train"]["monitor"]
        problems = []
        if not _judges(index) and index.table.column("messages").null_count:
            problems.append(
                "some of these data sets have conversations and some have labels alone: train on one kind at "
                "a time"
            )
        if _judges(index):
            try:
                asked = question(model["prompt"], model["answers"])
            except ConfigError as error:
                return list(error.problems)
            if asked is None or not asked.answers:
                problems.append(
                    "these images have labels and no conversations, and there is no question to ask: type "
                    "model.prompt='Is this image real or AI-generated? Answer with one word.' "
                    "model.answers=[real,fake]"
                )
        if not model["fit"]:
            return problems
        other = _OF_CONVERSATIONS if _judges(index) else _OF_JUDGED
        if monitor in other:
            right = "val/auroc" if _judges(index) else "val/exact_match"
            kind = "images with labels" if _judges(index) else "conversations"
            problems.append(
                f"train.monitor={monitor} is not measured on {kind}: type train.monitor=val/loss "
                f"train.mode=min, or train.monitor={right} train.mode=max"
            )
        every = model["generate_every_n_epochs"]
        if monitor in _OF_WRITTEN - other and every != 1:
            when = "never" if every == 0 else f"in every {every}th epoch only"
            problems.append(
                f"train.monitor={monitor} scores answers, which are written {when} "
                f"(model.generate_every_n_epochs={every}): type train.monitor=val/loss train.mode=min, or "
                "model.generate_every_n_epochs=1"
            )
        return problems

    def fits(self, config: Mapping[str, Any], build: Callable[[], Any], index: Index) -> list[str]:
        """Questions and conversations that the network can't read; nothing where its tokenizer is not here.

        Of many conversations so many as take a second are looked at.
        """
        net = build()
        if not net.can_read():
            return []
        spec = with_geometry(net.input_spec, config["model"]["geometry"])
        try:
            encode = net.encode_fn(spec.output_size)
            if _judges(index):
                asked = question(config["model"]["prompt"], config["model"]["answers"])
                if asked is None or not asked.answers:
                    return []
                check_answers(encode, asked, net.max_target_token_length)
                encode([asked.answered(0), asked.answered(1)])
                return []
        except (ConfigError, DataError) as error:
            return list(error.problems) if isinstance(error, ConfigError) else [f"model.prompt: {error}"]
        step = max(1, len(index) // _LOOKED_AT)
        for row in range(0, len(index), step):
            try:
                encode([index.table.column("messages")[row].as_py()])
            except (ConfigError, DataError) as error:
                said = "; ".join(error.problems) if isinstance(error, ConfigError) else str(error)
                return [f"the conversation about {index.location(row)[1]} (row {row} of the index): {said}"]
        return []

    def adjust(self, module: Any, config: Mapping[str, Any]) -> None:
        """What is asked, how it is answered, and where verdicts change."""
        model = config["model"]
        module.generation = Generation(**model["generation"])
        module.thresholds = Thresholds(**model["thresholds"])
        module.ask(question(model["prompt"], model["answers"]), model["answer_score"])

    def predict(
        self, module: Any, batches: Any, index: Index, part: str, *, device: torch.device, precision: str
    ) -> Predicted:
        """Answers of a split, and the likelihood of the right ones."""
        found = answer(module, batches, device=device, precision=precision)
        if _judges(index):
            table = answer_predictions(index, found, module.thresholds, module.question.answers)
        else:
            table = conversation_predictions(index, found)
            prior = _prior(index)
            if prior:
                table = table.replace_schema_metadata({BASELINE: json.dumps(prior).encode()})
        return Predicted(table, found.images_per_second)

    def figures(
        self, predictions: Mapping[str, pa.Table], module: Any, *, known: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Flat metrics of every split: a detector's and those of the written answers, or a writer's."""
        judged = {split: table for split, table in predictions.items() if is_judged(table)}
        metrics = DETECTION.figures(judged, module, known=known) if judged else {}
        for split, table in predictions.items():
            if split in judged:
                answers = module.question.answers
                found = {**of_likelihood(table), **of_generators(table), **of_written(table, answers)}
            else:
                found = of_conversations(table)
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
        return metrics

    def read(self, path: Path) -> pa.Table:
        """Columns of `evaluation.vlm.JUDGED` or `CONVERSATIONS`."""
        return read_answers(path)

    def report(self, source: RunReport, out: Path) -> Path:
        """A detector's report with the written answers, or one of what was asked and answered."""
        if any(is_judged(table) for table in source.predictions.values()):
            return DETECTION.report(source, out)
        return write_answers_report(source, out)

    def tables(
        self, metrics: Mapping[str, float], config: Mapping[str, Any], *, monitor: str | None, title: str
    ) -> list[Any]:
        """The figures, those of the most frequent answer beside them, and the line of the run."""
        if any(name.endswith("/invalid") for name in metrics):
            return [*DETECTION.tables(metrics, config, monitor=monitor, title=title), *written_line(metrics)]
        own = {name: value for name, value in metrics.items() if "/most_frequent" not in name}
        found: list[Any] = [metrics_table(own, monitor=monitor, title=title)]
        return [*found, *baseline_table(metrics), *filter(None, [run_line(metrics)])]

    def tabulate(
        self,
        predictions: Mapping[str, pa.Table],
        metrics: Mapping[str, float],
        config: Mapping[str, Any],
        directory: Path,
        *,
        title: str,
        width: int,
    ) -> list[Any]:
        """Of judged images a detector's tables."""
        if not any(is_judged(table) for table in predictions.values()):
            return self.tables(metrics, config, monitor=None, title=title)
        found = DETECTION.tabulate(predictions, metrics, config, directory, title=title, width=width)
        return [*found, *written_line(metrics)]

    def samples(
        self, predictions: Mapping[str, pa.Table], index: Index, config: Mapping[str, Any]
    ) -> list[Sample]:
        """The first images, each with its question and its answers; of judged ones the worst misjudged."""
        split = next((split for split in ("test", "val") if split in predictions), None)
        if split is None:
            return []
        if is_judged(predictions[split]):
            return DETECTION.samples(predictions, index, config)
        found = []
        for row in predictions[split].slice(0, _SAMPLES).to_pylist():
            pixels = self.thumbnail(index, row["index"], config)
            if pixels is not None:
                columns = {"question": row["question"], "text": row["text"], "answer": row["answer"]}
                said = f"{row['question']} {row['text'] or '(no word)'} [{row['answer']}]"
                found.append(Sample(row["path"], said, pixels, columns))
        return found

    def intervals(
        self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float], config: Mapping[str, Any]
    ) -> dict[str, Interval]:
        """Wilson and bootstrap bounds of every split."""
        judged = {split: table for split, table in predictions.items() if is_judged(table)}
        bounds = DETECTION.intervals(judged, metrics, config)
        for split, table in predictions.items():
            if split not in judged:
                bounds |= {f"{split}/{name}": value for name, value in intervals(table).items()}
        return bounds

    def judged(self, predictions: Mapping[str, pa.Table], metrics: Mapping[str, float]) -> Judged | None:
        """Of judged images a detector's test predictions."""
        test = predictions.get("test")
        return DETECTION.judged(predictions, metrics) if test is not None and is_judged(test) else None


def _judges(index: Index) -> bool:
    """Whether a question is asked, and answered by the labels."""
    return "messages" not in index.table.column_names


def _prior(index: Index) -> dict[str, str]:
    """The most frequent answers of train, question by question."""
    rows = index.rows("train")
    pairs = []
    for messages in index.table.column("messages").take(pa.array(rows)).to_pylist():
        asked = [one["content"] for one in messages if one["role"] == "user"]
        pairs.append((asked[-1].replace(IMAGE, " ").strip(), messages[-1]["content"]))
    return prior_of(pairs)


TASK = VLM()
