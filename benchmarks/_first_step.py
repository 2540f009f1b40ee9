"""A callback that writes down when the first step of a run was done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback


class FirstStep(Callback):
    """Writes the time of day into `first_step.txt` of the run."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lightning's hook."""
        file = Path(trainer.default_root_dir) / "first_step.txt"
        if trainer.is_global_zero and not file.exists():
            file.write_text(str(time.time()))
