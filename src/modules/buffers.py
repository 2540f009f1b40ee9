"""What training steps leave behind, kept on the device until somebody looks.

A step appends references and computes nothing; every n steps, and at the end of an epoch, the buffer is read
in one go. That is one synchronisation with the device instead of one a step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import TrainingError


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; `rows` are the Index rows of the first such batch."""

    def __init__(self, value: float, step: int, rows: list[int]) -> None:
        self.rows = rows
        super().__init__(f"the loss became {value} at step {step}")


@dataclass
class StepBuffer:
    """Losses and hits of the batches since the last flush, and their sums over the epoch.

    seen: images since this process started, whatever the epoch.
    """

    losses: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    loss_sum: float = 0.0
    hits: int = 0
    images: int = 0
    seen: int = 0

    def add(
        self,
        loss: Tensor,
        rows: Tensor,
        step: int,
        *,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> None:
        """Keep references to one batch's scalar loss and Index rows [B].

        step: optimizer steps taken before this batch. logits, labels: [B] each, where hits are counted.
        """
        self.losses.append(loss.detach())
        self.rows.append(rows)
        if logits is not None and labels is not None:
            self.logits.append(logits.detach())
            self.labels.append(labels)
        self.steps.append(step)

    def flush(self) -> tuple[float, int] | None:
        """Mean loss and number of images since the last flush, added to the epoch's sums; None when empty.

        Raises NonFiniteLossError naming the first batch whose loss is not finite.
        """
        if not self.losses:
            return None
        losses = torch.stack(self.losses).float().cpu()
        if not torch.isfinite(losses).all():
            first = int((~torch.isfinite(losses)).nonzero()[0])
            raise NonFiniteLossError(float(losses[first]), self.steps[first], self.rows[first].tolist())
        sizes = torch.tensor([len(rows) for rows in self.rows])
        self.loss_sum += float((losses * sizes).sum())
        if self.logits:
            self.hits += int(((torch.cat(self.logits) > 0) == (torch.cat(self.labels) == 1)).sum())
        self.images += int(sizes.sum())
        self.seen += int(sizes.sum())
        mean, images = float(losses.mean()), int(sizes.sum())
        self._forget()
        return mean, images

    def epoch(self) -> tuple[float, float]:
        """Mean loss and accuracy over the epoch's images so far; NaN before the first.

        The accuracy is 0 where no hits were counted.
        """
        if not self.images:
            return float("nan"), float("nan")
        return self.loss_sum / self.images, self.hits / self.images

    def start_epoch(self) -> None:
        """Forget everything."""
        self._forget()
        self.loss_sum, self.hits, self.images = 0.0, 0, 0

    def state_dict(self) -> dict[str, float]:
        """The epoch's sums, so that a resumed epoch reports all of its steps. Flush first."""
        return {"loss_sum": self.loss_sum, "hits": self.hits, "images": self.images}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take the sums of an interrupted epoch up again."""
        self._forget()
        self.loss_sum, self.hits = float(state["loss_sum"]), int(state["hits"])
        self.images = int(state["images"])

    def _forget(self) -> None:
        self.losses, self.logits, self.labels, self.rows, self.steps = [], [], [], [], []
