"""Cross-entropy with a supervised contrastive loss on the representation (Khosla et al., NeurIPS 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..datamodules.batches import DetectionBatch
from ..errors import ConfigError
from .detection import DetectionModule


class ContrastiveDetectionModule(DetectionModule):
    """A DetectionModule whose loss is also given the representation that the network judges.

    The network has a module `proj2`, whose output [B, d] that is (RINE); the loss takes (logits, targets,
    representation).
    """

    def on_fit_start(self) -> None:
        """From here on the representation of the batch at hand is kept."""
        proj2 = getattr(self.net, "proj2", None)
        if not isinstance(proj2, nn.Module):
            raise ConfigError(
                f"model._target_={type(self).__name__} needs a network with a representation (proj2), which "
                f"{type(self.net).__name__} has not: type model=rine_4class, or "
                "model._target_=tapetum.modules.detection.DetectionModule"
            )
        proj2.register_forward_hook(self._keep)

    def compute_loss(self, batch: DetectionBatch, outputs: Tensor) -> Tensor:
        """Scalar loss of logits [B] and of the representation from which they were computed."""
        return self.loss(outputs, batch["labels"], self.kept)  # type: ignore[call-arg]

    def _keep(self, _: nn.Module, __: object, output: Tensor) -> None:
        self.kept = output


class SupConCrossEntropy(nn.Module):
    """RINE's loss: binary cross-entropy, summed over the batch, plus xi times `supcon`.

    xi: 0.1, 0.2, 0.4 and 0.8 were tried; the best one depends on the training set. temperature: 0.07.
    """

    def __init__(self, xi: float, temperature: float = 0.07) -> None:
        super().__init__()
        if xi < 0:
            raise ConfigError(f"model.loss.xi={xi} must not be below 0")
        if temperature <= 0:
            raise ConfigError(f"model.loss.temperature={temperature} must be above 0: 0.07")
        self.xi, self.temperature = xi, temperature

    def forward(self, logits: Tensor, targets: Tensor, representation: Tensor | None = None) -> Tensor:
        """Scalar float32 of logits float [B], targets int64 [B] (1 = generated), representation [B, d]."""
        if representation is None:
            raise ConfigError(
                "SupConCrossEntropy compares representations, which DetectionModule does not hand on: type "
                "model._target_=tapetum.modules.supcon.ContrastiveDetectionModule"
            )
        entropy = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")
        return entropy + self.xi * supcon(representation, targets, temperature=self.temperature)


def supcon(representation: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Supervised contrastive loss (L_out, equation 2), a mean over the batch; scalar float32.

    representation: [B, d] before normalisation. targets: [B]. An image without another of its class adds 0.
    """
    z = F.normalize(representation.float(), dim=1)
    similar = z @ z.T / temperature
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_probability = similar - similar.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    same = (targets[:, None] == targets[None, :]) & ~itself
    positives = log_probability.where(same, 0.0).sum(dim=1) / same.sum(dim=1).clamp(min=1)
    return -positives.mean()
