"""DetectionModule under a real Trainer, on the CPU."""

from functools import partial

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging
from sklearn import metrics as sk
from tapetum.errors import TrainingError
from tapetum.modules.buffers import NonFiniteLossError
from tapetum.modules.detection import DetectionModule
from tapetum.modules.losses import BinaryCrossEntropy, CrossEntropy
from tapetum.optim import schedules
from tapetum.runs.checkpoints import checkpoints, read_checkpoint

from modules.training import data_for, detector, fit, history, network

VALIDATION = [
    "loss",
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "auroc",
    "ap",
    "real_accuracy",
    "fake_accuracy",
]


class Recording(DetectionModule):
    """Keeps what the loss saw, for an independent reckoning."""

    def compute_loss(self, batch, outputs):
        loss = super().compute_loss(batch, outputs)
        if self.training:
            self.kept = [*getattr(self, "kept", []), (outputs.detach(), batch["labels"], loss.detach())]
        return loss


def epochs(folder):
    return [row for row in history(folder) if "train/loss" in row]


def test_everything_promised_is_logged_each_epoch(tmp_path):
    fit(detector(backbone_lr=1e-4), tmp_path, max_epochs=2)
    names = {
        "train/loss", "train/accuracy", *(f"val/{name}" for name in VALIDATION),
        "lr/head", "lr/head_no_decay", "lr/backbone", "lr/backbone_no_decay",
        "speed/images_per_second", "speed/data_wait", "memory/peak_gb",
    }  # fmt: skip
    for epoch in (0, 1):
        logged = [row for row in history(tmp_path) if row["epoch"] == epoch]
        assert names <= {name for row in logged for name in row}
        (end,) = (row for row in logged if "train/loss" in row)
        assert end["step"] == 8 * (epoch + 1)
        assert end["speed/images_per_second"] > 0
        assert 0 <= end["speed/data_wait"] <= 1
        assert 0.05 < end["memory/peak_gb"] < 100
        assert [row["step"] for row in logged if "train/loss_step" in row] == [
            8 * epoch + step for step in (2, 4, 6, 8)
        ]


def test_validation_metrics_are_those_of_sklearn_on_the_logits(tmp_path):
    module = detector()
    data = data_for(module, tmp_path / "data", eval_batch_size=4)
    logged = fit(module, tmp_path, data=data).callback_metrics
    module.eval()
    with torch.no_grad():
        batches = list(data.eval_dataloader("val"))
        logits = torch.cat([module.net(batch["images"]) for batch in batches])
    y = torch.cat([batch["labels"] for batch in batches]).numpy()
    called = (logits > 0).int().numpy()
    expected = {
        "loss": sk.log_loss(y, torch.sigmoid(logits.double()).numpy()),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "precision": sk.precision_score(y, called, zero_division=float("nan")),
        "recall": sk.recall_score(y, called),
        "f1": sk.f1_score(y, called),
        "auroc": sk.roc_auc_score(y, logits.numpy()),
        "ap": sk.average_precision_score(y, logits.numpy()),
        "real_accuracy": sk.recall_score(y, called, pos_label=0),
        "fake_accuracy": sk.recall_score(y, called, pos_label=1),
    }
    assert len(y) == 10
    found = {name: float(logged[f"val/{name}"]) for name in VALIDATION}
    assert found == pytest.approx(expected, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_training_figures_are_those_of_all_images_of_the_epoch(tmp_path, every):
    module = detector(kind=Recording, log_every_n_steps=every)
    fit(module, tmp_path, max_epochs=2)
    for epoch, row in enumerate(epochs(tmp_path)):
        kept = module.kept[8 * epoch : 8 * epoch + 8]
        logits, labels = (torch.cat([part[number] for part in kept]) for number in (0, 1))
        assert row["train/accuracy"] == pytest.approx(float(((logits > 0) == (labels == 1)).float().mean()))
        assert row["train/loss"] == pytest.approx(
            float(torch.stack([part[2] for part in kept]).mean()), rel=1e-5
        )
    assert len(module.kept) == 16


def test_a_k_way_head_trains_and_validates_as_one_logit(tmp_path):
    module = detector(network(classes=2), loss=CrossEntropy(label_smoothing=0.1))
    data = data_for(module, tmp_path / "data")
    logged = fit(module, tmp_path, data=data).callback_metrics
    (batch,) = data_for(module, tmp_path / "data", eval_batch_size=64).eval_dataloader("val")
    with torch.no_grad():
        outputs = module.eval().net(batch["images"])
    difference = outputs[:, 1] - outputs[:, 0]
    assert float(logged["val/auroc"]) == pytest.approx(sk.roc_auc_score(batch["labels"], difference))
    loss = F.cross_entropy(outputs, batch["labels"], label_smoothing=0.1)
    assert float(logged["val/loss"]) == pytest.approx(float(loss), rel=1e-4)


def test_an_overridden_loss_is_what_is_minimised_and_logged(tmp_path):
    class Constant(DetectionModule):
        def compute_loss(self, batch, outputs):
            return 7.0 + 0.0 * outputs.sum()

    module = detector(kind=Constant, optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.0))
    before = {name: value.clone() for name, value in module.net.named_parameters()}
    fit(module, tmp_path)
    assert epochs(tmp_path)[0]["train/loss"] == 7.0
    assert all(torch.equal(value, before[name]) for name, value in module.net.named_parameters())


class BreakAt(lightning.Callback):
    """Makes one weight NaN before a batch of the training, as a diverged step would."""

    def __init__(self, step):
        self.step = step
        self.rows = None

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            self.rows = batch["index"].tolist()
            with torch.no_grad():
                module.net.classifier[-1].weight[0, 0] = float("nan")


@pytest.mark.parametrize("every", [1, 4, 100])
@pytest.mark.parametrize("step", [5, 15])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, step, every):
    saving = checkpoints(tmp_path / "checkpoints", monitor="val/auroc", mode="max", every_n_steps=2)
    broken = BreakAt(step)
    with pytest.raises(NonFiniteLossError, match=f"the loss became nan at step {step}$") as caught:
        fit(detector(log_every_n_steps=every), tmp_path, max_epochs=2, callbacks=[broken, *saving])
    assert caught.value.rows == broken.rows
    for file in (tmp_path / "checkpoints").glob("*.ckpt"):
        kept = read_checkpoint(file)
        assert kept["global_step"] <= step
        assert all(torch.isfinite(v).all() for v in kept["state_dict"].values() if v.is_floating_point())
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == step - 1


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class BreakAfter(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 4:
                with torch.no_grad():
                    module.net.classifier[-1].bias.fill_(float("inf"))

    saving = checkpoints(tmp_path / "checkpoints", monitor=None, mode="max", every_n_steps=2)
    with pytest.raises(
        TrainingError, match=r"weights net.classifier.4.bias are no longer finite after step 4"
    ):
        fit(detector(), tmp_path, callbacks=[BreakAfter(), *saving])
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_plateau_lowers_the_rate_when_the_monitored_value_stands_still(tmp_path):
    still = partial(torch.optim.SGD, lr=1.0, weight_decay=0.0)
    frozen = network(freeze=True)
    for parameter in frozen.classifier[:-1].parameters():
        parameter.requires_grad_(False)

    class Still(DetectionModule):
        """Nothing changes: not even the statistics of its norms."""

        def training_step(self, batch, batch_idx):
            self.net.eval()
            return super().training_step(batch, batch_idx)

        def compute_loss(self, batch, outputs):
            return BinaryCrossEntropy()(outputs, batch["labels"]).detach() + 0.0 * outputs.sum()

    scheduler = partial(schedules.plateau, factor=0.1, patience=1, min_lr=1e-6)
    module = detector(
        frozen, kind=Still, optimizer=still, scheduler=scheduler, monitor="val/loss", mode="min"
    )
    fit(module, tmp_path, max_epochs=6)
    rates = [row["lr/head"] for row in epochs(tmp_path)]
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(("batches", "accumulate"), [(8, 1), (8, 2), (8, 3)])
def test_the_schedule_steps_with_the_optimizer(tmp_path, batches, accumulate):
    class Rates(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_before_optimizer_step(self, trainer, module, optimizer):
            self.seen.append(optimizer.param_groups[0]["lr"])

    rates = Rates()
    scheduler = partial(schedules.cosine, warmup_epochs=1, min_lr=1e-5)
    fit(
        detector(scheduler=scheduler, optimizer=partial(torch.optim.SGD, lr=0.1)),
        tmp_path,
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        callbacks=[rates],
    )
    a_epoch = -(-batches // accumulate)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    curve = scheduler(optimizer, horizon=schedules.Horizon(3 * a_epoch, a_epoch))
    expected = []
    for _ in range(3 * a_epoch):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        curve.step()
    assert rates.seen == pytest.approx(expected)


def test_accumulated_batches_are_one_batch(tmp_path):
    def trained(folder, batch_size, accumulate):
        net = network(freeze=True)
        net.classifier[1] = torch.nn.Identity()  # no statistics of a batch
        module = detector(net, optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.0))
        data = data_for(module, tmp_path / "data", batch_size=batch_size)
        fit(module, folder, data=data, accumulate_grad_batches=accumulate)
        return module.net.classifier.state_dict()

    one, two = trained(tmp_path / "one", 8, 1), trained(tmp_path / "two", 4, 2)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_bad_images_costs_a_step_and_nothing_else(tmp_path, workers):
    module = detector()
    data = data_for(module, tmp_path / "data", on_bad_image="skip", num_workers=workers)
    loader = data.train_dataloader()
    keys = list(loader.batch_sampler)
    for _, row in keys[-1]:
        root, path = data.index.location(row)
        (root / path).write_bytes(b"")
    trainer = fit(module, tmp_path, data=data)
    assert sorted(data.bad) == sorted(row for _, row in keys[-1])
    assert trainer.global_step == 8
    assert "val/auroc" in trainer.callback_metrics  # the epoch came to its end
    (row,) = epochs(tmp_path)
    assert row["train/accuracy"] * 28 == pytest.approx(round(row["train/accuracy"] * 28))


def test_without_a_validation_split_training_still_works(tmp_path):
    from datamodules.detection_data import build_index
    from layouts import make_folder

    module = detector()
    index = build_index(make_folder(tmp_path / "data", splits={"train": 8}, size=32), val_fraction=0)
    trainer = fit(module, tmp_path, data=data_for(module, tmp_path / "data", index=index))
    assert trainer.global_step == 4
    assert "train/loss" in trainer.callback_metrics
    assert not any(name.startswith("val/") for name in trainer.callback_metrics)


def test_overfitting_sees_the_same_batches_again_and_again(tmp_path):
    class Rows(lightning.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.seen.append((trainer.current_epoch, tuple(batch["index"].tolist())))

    rows = Rows()
    fit(detector(), tmp_path, max_epochs=2, overfit_batches=2, callbacks=[rows])
    first, second = ([batch for epoch, batch in rows.seen if epoch == number] for number in (0, 1))
    assert len(first) == 2
    assert first == second


def test_averaged_weights_are_validated_and_kept_as_the_best(tmp_path):
    class Averages(lightning.Callback):
        """Averages by hand."""

        def on_fit_start(self, trainer, module):
            self.average = {name: value.clone() for name, value in module.net.named_parameters()}

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            with torch.no_grad():
                for name, value in module.net.named_parameters():
                    self.average[name] = 0.5 * self.average[name] + 0.5 * value
            self.last = {name: value.clone() for name, value in module.net.named_parameters()}

    module, hand = detector(), Averages()
    saving = checkpoints(tmp_path / "checkpoints", monitor="val/auroc", mode="max")
    data = data_for(module, tmp_path / "data", eval_batch_size=64)
    # The first update copies; from then on each step counts half.
    ema = EMAWeightAveraging(decay=0.5)
    trainer = fit(module, tmp_path, data=data, callbacks=[hand, ema, *saving])
    best = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert set(best["state_dict"]) == set(module.state_dict())
    current = {name.removeprefix("net."): v for name, v in best["current_model_state"].items()}
    assert all(torch.equal(current[name], value) for name, value in hand.last.items())
    averaged = {name.removeprefix("net."): value for name, value in best["state_dict"].items()}
    assert not all(torch.equal(averaged[name], value) for name, value in hand.last.items())

    net = network()
    net.load_state_dict(averaged)
    (batch,) = data.eval_dataloader("val")
    with torch.no_grad():
        logits = net.eval()(batch["images"])
    loss = F.binary_cross_entropy_with_logits(logits, batch["labels"].float())
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(float(loss), rel=1e-4)
