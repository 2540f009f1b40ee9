"""A checkpoint's config is untrusted input: what it names is judged before anything is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.runs.checkpoints import FORMAT
from tapetum.runs.loading import load_module


def checkpoint(folder: Path, net: dict[str, object]) -> Path:
    config = {
        "model": {"_target_": "tapetum.modules.detection.DetectionModule", "net": net},
        "allow_targets": ["os"],
    }
    file = folder / "best.ckpt"
    torch.save({"tapetum": {"format": FORMAT, "config": config, "metadata": {}}, "state_dict": {}}, file)
    return file


@pytest.mark.parametrize(
    "net",
    [
        {"_target_": "torch.utils.collect_env.run", "command": "touch {made}"},
        {"_target_": "torch.from_file", "filename": "{made}", "shared": True, "size": 8},
        {"_target_": "os.system", "command": "touch {made}"},
        {"_target_": "tapetum.indexes.synthetic.index", "root": "{made}"},
        {
            "_target_": "torch.nn.Sequential",
            "_args_": [{"_target_": "torch.utils.collect_env.run", "command": "touch {made}"}],
        },
    ],
)
def test_nothing_but_a_module_is_ever_called(tmp_path, net):
    made = tmp_path / "made"
    filled = eval(repr(net).replace("{made}", str(made)))
    with pytest.raises(ConfigError, match=r"is not a part|is refused|not allowed|allow"):
        load_module(checkpoint(tmp_path, filled))
    assert not made.exists()
