"""A checkpoint's config is untrusted input: what it names is judged before anything is called."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.runs.checkpoints import FORMAT
from tapetum.runs.loading import load_module


def checkpoint(folder: Path, net: dict[str, object], **model: object) -> Path:
    config = {
        "model": {"_target_": "tapetum.modules.detection.DetectionModule", "net": net, **model},
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


@pytest.mark.parametrize("place", ["net", "loss", "metrics", "thresholds"])
@pytest.mark.parametrize("partial", [True, False])
def test_a_function_of_an_allowed_package_is_a_loss_or_metric_that_nobody_calls_on_building(
    tmp_path, monkeypatch, place, partial
):
    package = f"own_{tmp_path.name}"
    (tmp_path / f"{package}.py").write_text("def touch(made):\n    open(made, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    made = tmp_path / "made"
    node: dict[str, object] = {"_target_": f"{package}.touch", "made": str(made), "_partial_": partial}
    placed: object = {"mine": node} if place in ("metrics", "thresholds") else node
    plain = {"_target_": "torch.nn.Identity"}
    file = checkpoint(tmp_path, **({"net": plain} | {place: placed}))
    refusal = "is refused" if place in ("net", "thresholds") or not partial else "has no input_spec"
    with pytest.raises(ConfigError, match=refusal):
        load_module(file, allow=[package])
    assert not made.exists()
    with pytest.raises(ConfigError, match=r"type allow_targets=\[own_"):
        load_module(file)
