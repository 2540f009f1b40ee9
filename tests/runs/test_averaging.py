"""The moving average is the recursion that its docstring states, buffers included."""

import lightning
import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.runs.averaging import EMA
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def training_step(self, batch, batch_idx):
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Recorder(lightning.Callback):
    def __init__(self):
        self.behind_step = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.behind_step.append({name: value.clone() for name, value in module.net.state_dict().items()})


def test_average_follows_the_rising_decay(tmp_path):
    torch.manual_seed(0)
    net, recorder = Net(), Recorder()
    loader = DataLoader(TensorDataset(torch.randn(40, 3)), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[recorder, EMA(decay=0.5)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(net, loader)
    assert len(recorder.behind_step) == 10
    average = recorder.behind_step[0]
    for step, weights in enumerate(recorder.behind_step[1:], start=1):
        towards = 1 - min(0.5, (1 + step) / (10 + step))
        for name, value in weights.items():
            average[name] = average[name].lerp(value, towards) if value.is_floating_point() else value
    reached = net.net.state_dict()  # Lightning leaves the average in the module
    for name, value in reached.items():
        torch.testing.assert_close(value, average[name])
    assert not torch.equal(reached["2.weight"], recorder.behind_step[-1]["2.weight"])
    assert not torch.equal(reached["1.running_var"], recorder.behind_step[-1]["1.running_var"])


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_never_forgets_or_overshoots_is_refused(decay):
    with pytest.raises(ConfigError, match=r"must lie in \[0, 1\)"):
        EMA(decay=decay)
