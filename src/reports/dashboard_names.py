"""What the runs of each task log that is worth a panel, by the names that a tracker has for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shown:
    """Names of one task.

    curves: figures over the epochs; the first one chooses the checkpoint unless told otherwise. tested:
    figures of the test split, without `test/`. part, of_parts: what the test split falls into, and the
    figures of each such part, logged as `test/<part>/<NAME>/<figure>`. pictures: plots of the report. images:
    samples to look at. tables: samples and predictions row by row.
    """

    curves: tuple[str, ...]
    tested: tuple[str, ...]
    part: str | None
    of_parts: tuple[str, ...]
    pictures: tuple[str, ...]
    images: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def monitor(self) -> str:
        """The figure that chooses the checkpoint unless told otherwise."""
        return self.curves[0]


_OF_A_DETECTOR = (
    *("confusion", "generators", "roc", "precision_recall", "reliability", "scores"),
    "training_curve",
)

SHOWN: dict[str, Shown] = {
    "detection": Shown(
        curves=("val/auroc", "val/ap", "val/balanced_accuracy", "val/f1"),
        tested=("auroc", "ap", "balanced_accuracy", "accuracy_tuned", "ece"),
        part="generator",
        of_parts=("balanced_accuracy", "auroc", "ap"),
        pictures=_OF_A_DETECTOR,
        images=("most_confidently_wrong",),
        tables=("predictions/test",),
    ),
    "captioning": Shown(
        curves=("val/loss", "val/cider", "val/bleu_4", "val/rouge_l", "val/exact_match"),
        tested=("cider", "bleu_4", "rouge_l", "exact_match", "loss"),
        part=None,
        of_parts=(),
        pictures=("scores", "lengths", "training_curve"),
        images=(),
        tables=("captions", "predictions/test"),
    ),
    "retrieval": Shown(
        curves=("val/map_at_r", "val/recall_at_1", "val/knn_balanced_accuracy", "val/embedding/spread"),
        tested=("map_at_r", "recall_at_1", "recall_at_5", "balanced_accuracy", "coverage"),
        part="class",
        of_parts=("knn_accuracy", "map_at_r"),
        pictures=("confusion", "cmc", "projection", "similarities", "rejection", "training_curve"),
        images=("most_confidently_wrong",),
        tables=("predictions/test",),
    ),
    # of judged images those of a detector, and of conversations the others
    "vlm": Shown(
        curves=(
            *("val/loss", "val/auroc", "val/balanced_accuracy", "val/written_accuracy", "val/invalid"),
            *("val/exact_match", "val/token_f1", "val/rouge_l"),
        ),
        tested=(
            *("auroc", "balanced_accuracy", "written_accuracy", "invalid"),
            *("exact_match", "token_f1", "rouge_l"),
        ),
        part="generator",
        of_parts=("balanced_accuracy", "auroc", "written_accuracy"),
        pictures=_OF_A_DETECTOR,
        images=("answers",),
        tables=("answers", "predictions/test"),
    ),
}

SPEED = ("speed/images_per_second", "speed/data_wait", "memory/peak_gb")
LEARNING_RATES = "lr/.*"
SYSTEM = ("system/cpu", "system/memory_percent", "system/proc.memory.rssMB")
GPUS = (r"system/gpu\.\d+\.gpu", r"system/gpu\.\d+\.memoryAllocated")
"""What W&B itself measures; the latter are regular expressions, as there may be several."""
