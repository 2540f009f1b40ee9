import json
import math
import os
import pickle
import random
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import lightning
import pytest
import tapetum
import torch
from tapetum.errors import CheckpointError
from tapetum.runs.checkpoints import AtomicCheckpointIO, checkpoints, read_checkpoint

from modules.training import data_for, detector, fit, history, network


def saving(tmp_path: Path, **arguments) -> list[lightning.Callback]:
    return checkpoints(tmp_path / "checkpoints", **({"monitor": "val/auroc", "mode": "max"} | arguments))


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """One epoch of a tiny detector with its checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    fit(detector(), folder, max_epochs=2, callbacks=saving(folder))
    return folder


def primitive(value) -> bool:
    if isinstance(value, dict):
        return all(primitive(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return all(primitive(part) for part in value)
    return (
        value is None or type(value) in (bool, int, float, str, torch.Tensor) or isinstance(value, torch.Size)
    )


def test_best_and_last_are_written_with_their_json_beside(run):
    assert files(run) == ["best.ckpt", "best.json", "last.ckpt", "last.json"]
    values = [row["val/auroc"] for row in history(run) if "val/auroc" in row]
    best, last = (
        json.loads((run / "checkpoints" / f"{which}.json").read_text()) for which in ("best", "last")
    )
    assert best["monitor"] == "val/auroc"
    assert best["monitored"] == best["best"] == last["best"] == pytest.approx(max(values))
    assert last["monitored"] == pytest.approx(values[-1])
    assert (last["epoch"], last["step"]) == (1, 16)
    assert best["epoch"] == values.index(max(values))
    assert "step" not in best["metrics"]
    inside = read_checkpoint(run / "checkpoints" / "best.ckpt")["tapetum"]["metadata"]
    metrics = {name: None if math.isnan(value) else value for name, value in inside["metrics"].items()}
    assert best == {**inside, "metrics": metrics}


def test_a_checkpoint_in_the_middle_of_an_epoch_has_the_losses_of_this_epoch(tmp_path):
    """train/loss is only logged at the end of an epoch: what Lightning keeps until then is the last one's."""
    callbacks = saving(tmp_path, monitor=None, every_n_epochs=None, every_n_steps=3)
    fit(detector(log_every_n_steps=1), tmp_path, max_epochs=2, callbacks=callbacks)
    last = json.loads((tmp_path / "checkpoints" / "last.json").read_text())
    assert (last["epoch"], last["step"]) == (1, 15)
    rows = history(tmp_path)
    steps = {row["step"]: row["train/loss_step"] for row in rows if "train/loss_step" in row}
    so_far = [steps[step] for step in range(9, 16)]  # 8 steps of equal batches are an epoch
    assert last["metrics"]["train/loss"] == pytest.approx(sum(so_far) / len(so_far))
    (before,) = (row["val/loss"] for row in rows if row["epoch"] == 0 and "val/loss" in row)
    assert last["metrics"]["val/loss"] == pytest.approx(before)  # of the last validation


def test_the_best_checkpoint_of_a_validation_within_an_epoch_has_its_own_losses(tmp_path):
    fit(detector(log_every_n_steps=1), tmp_path, val_check_interval=0.5, callbacks=saving(tmp_path))
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    rows = history(tmp_path)
    steps = [
        row["train/loss_step"] for row in rows if row["step"] <= best["step"] and "train/loss_step" in row
    ]
    (loss,) = (row["val/loss"] for row in rows if row["step"] == best["step"] and "val/loss" in row)
    assert best["metrics"]["train/loss"] == pytest.approx(sum(steps) / len(steps))
    assert best["metrics"]["val/loss"] == pytest.approx(loss)


def test_the_metadata_say_what_wrote_them_and_when(run):
    last = json.loads((run / "checkpoints" / "last.json").read_text())
    assert last["tapetum"] == tapetum.__version__
    written = datetime.fromisoformat(last["time"])
    assert abs(written.timestamp() - (run / "checkpoints" / "last.ckpt").stat().st_mtime) < 60
    assert {"train/loss", "val/loss", "val/auroc", "lr/head"} <= last["metrics"].keys()
    logged = [row for row in history(run) if row["epoch"] == 1]
    for name in ("train/loss", "train/accuracy", "val/loss", "val/auroc", "lr/head"):
        assert last["metrics"][name] == pytest.approx([row[name] for row in logged if name in row][-1]), name


def test_weights_that_are_saved_behind_the_last_epoch_are_of_that_epoch(tmp_path):
    trainer = fit(detector(), tmp_path, max_epochs=2)
    trainer.save_checkpoint(tmp_path / "checkpoints" / "average.ckpt")
    assert json.loads((tmp_path / "checkpoints" / "average.json").read_text())["epoch"] == 1


def test_a_checkpoint_holds_tensors_and_primitives_only(run):
    loaded = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    loaded = {name: dict(value) if name == "state_dict" else value for name, value in loaded.items()}
    assert primitive(loaded), {name for name, value in loaded.items() if not primitive(value)}
    assert loaded["tapetum"]["config"] == {"name": "tiny"}
    assert set(loaded["state_dict"]) == {f"net.{name}" for name in network().state_dict()}


def test_the_runners_up_are_kept_on_request(tmp_path):
    fit(detector(), tmp_path, max_epochs=4, callbacks=saving(tmp_path, top_k=2))
    kept = [name for name in files(tmp_path) if name.startswith("top") and name.endswith(".ckpt")]
    assert len(kept) == 2
    assert len(files(tmp_path)) == 8  # each with its JSON
    values = [row["val/auroc"] for row in history(tmp_path) if "val/auroc" in row]
    found = [
        read_checkpoint(tmp_path / "checkpoints" / name)["tapetum"]["metadata"]["monitored"] for name in kept
    ]
    assert sorted(found) == pytest.approx(sorted(values)[-2:])


@pytest.mark.parametrize("trainer", [{}, {"val_check_interval": 0.5}])
def test_checkpoints_that_are_named_by_their_step_do_not_overwrite_each_other(tmp_path, trainer):
    every = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path / "checkpoints", filename="{epoch}-{step}", every_n_train_steps=3, save_top_k=-1
    )  # a user's own: Lightning takes both from what was logged last, where anything was
    fit(detector(), tmp_path, max_epochs=2, callbacks=[every], **trainer)
    written = {name.removesuffix(".ckpt") for name in files(tmp_path) if name.endswith(".ckpt")}
    assert written == {f"epoch={(step - 1) // 8}-step={step}" for step in (3, 6, 9, 12, 15)}


def test_without_a_monitor_there_is_a_last_and_no_best(tmp_path):
    fit(detector(), tmp_path, callbacks=saving(tmp_path, monitor=None))
    assert files(tmp_path) == ["last.ckpt", "last.json"]


class Steps(lightning.Callback):
    """Which batches lie behind each checkpoint that is written."""

    def __init__(self):
        self.seen = []

    def on_save_checkpoint(self, trainer, module, checkpoint):
        self.seen.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready))


@pytest.mark.parametrize("when", [{"every_n_steps": 2}, {"every_minutes": 1e-9}])
def test_checkpoints_are_written_behind_whole_steps_only(tmp_path, when):
    steps = Steps()
    callbacks = [steps, *saving(tmp_path, monitor=None, every_n_epochs=None, **when)]
    fit(detector(), tmp_path, accumulate_grad_batches=3, callbacks=callbacks)
    expected = {(1, 3), (2, 6), (3, 8)} if "every_minutes" in when else {(2, 6)}
    assert set(steps.seen) == expected


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_run_resumed_from_either_checkpoint_is_the_run_that_went_on(tmp_path, which):
    def fit_to(folder, epochs, **more):
        module = detector()
        data = data_for(module, tmp_path / "data")
        fit(module, folder, data=data, max_epochs=epochs, callbacks=saving(folder), **more)
        return module.state_dict()

    expected = fit_to(tmp_path / "straight", 3)
    fit_to(tmp_path / "resumed", 1)
    reached = fit_to(
        tmp_path / "resumed", 3, ckpt_path=tmp_path / "resumed" / "checkpoints" / f"{which}.ckpt"
    )
    assert all(torch.equal(reached[name], value) for name, value in expected.items())
    straight, resumed = (
        [
            (row["epoch"], row["step"], row["train/loss"], row["train/accuracy"])
            for row in history(tmp_path / name)
            if "train/loss" in row
        ]
        for name in ("straight", "resumed")
    )
    assert resumed == straight


# --- a disk that is full, a file that is damaged ---

FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from tapetum.errors import CheckpointError
from tapetum.runs.checkpoints import AtomicCheckpointIO

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
checkpoint = {"state_dict": {"w": torch.ones(100_000)}, "tapetum": {"metadata": {"epoch": 1}}}
try:
    AtomicCheckpointIO().save_checkpoint(checkpoint, Path(sys.argv[1]))
except CheckpointError as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("room", [0, 1_000, 200_000, 400_500])
def test_a_full_disk_leaves_the_previous_checkpoint_and_says_so(tmp_path, room):
    file = tmp_path / "checkpoints" / "last.ckpt"
    before = {"state_dict": {"w": torch.zeros(3)}, "tapetum": {"format": 1, "metadata": {"epoch": 0}}}
    AtomicCheckpointIO().save_checkpoint(before, file)
    command = [sys.executable, "-c", FULL_DISK, str(file), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith(f"the checkpoint {file} could not be written: ")
    assert f"still valid (last.ckpt): make room, then go on with resume={tmp_path}" in done.stdout
    assert read_checkpoint(file)["state_dict"]["w"].tolist() == [0, 0, 0]
    assert json.loads(file.with_suffix(".json").read_text()) == {"epoch": 0}
    assert files(tmp_path) == ["last.ckpt", "last.json"]


def test_a_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path):
    file = tmp_path / "checkpoints" / "last.ckpt"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(file), "1000"], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("It was the first: make room, then start again")
    assert files(tmp_path) == []


def test_an_interrupt_during_a_save_leaves_the_previous_checkpoint(tmp_path):
    class Interrupting:
        """Pickled in the middle of the file."""

        def __reduce__(self):
            raise KeyboardInterrupt

    file = tmp_path / "checkpoints" / "last.ckpt"
    before = {"state_dict": {"w": torch.zeros(3)}, "tapetum": {"format": 1, "metadata": {}}}
    AtomicCheckpointIO().save_checkpoint(before, file)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({**before, "interrupt": Interrupting()}, file)
    assert files(tmp_path) == ["last.ckpt", "last.json"]
    assert read_checkpoint(file)["state_dict"]["w"].tolist() == [0, 0, 0]


@pytest.fixture
def whole(run) -> bytes:
    return (run / "checkpoints" / "last.ckpt").read_bytes()


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.001, 0.3, 0.7, 0.99, 0.99999])
def test_a_truncated_checkpoint_is_called_damaged(tmp_path, whole, share):
    file = tmp_path / "last.ckpt"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        CheckpointError, match=f"^{file} is damaged and can't be read: .*Take another checkpoint"
    ):
        read_checkpoint(file)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_anywhere_are_found(tmp_path, whole, seed):
    file = tmp_path / "last.ckpt"
    content = bytearray(whole)
    draw = random.Random(seed)
    with zipfile.ZipFile(_written(tmp_path / "copy.ckpt", whole)) as archive:
        part = draw.choice([info for info in archive.infolist() if info.file_size])
        with archive.open(part):
            start = archive.fp.tell()  # where its bytes lie, uncompressed
    position = start + draw.randrange(part.file_size)
    content[position] ^= 1 << draw.randrange(8)
    with pytest.raises(CheckpointError, match=r"is damaged and can't be read: "):
        read_checkpoint(_written(file, bytes(content)))


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content", [b"\0" * 4096, b"PK\x03\x04" + b"\1" * 500, random.Random(0).randbytes(5000)]
)
def test_garbage_is_called_damaged(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"garbage.ckpt is damaged and can't be read: "):
        read_checkpoint(_written(tmp_path / "garbage.ckpt", content))


class Harmful:
    """Would leave a trace if it were ever unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("way", ["torch", "torch before 1.6", "pickle"])
def test_pickled_objects_are_refused_and_never_run(tmp_path, way):
    file, trace = tmp_path / "evil.ckpt", tmp_path / "trace"
    content = {"tapetum": {"format": 1}, "state_dict": {}, "extra": Harmful(trace)}
    if way == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(
        CheckpointError, match=r"evil.ckpt holds pickled objects \(.*\), which could run any"
    ) as caught:
        read_checkpoint(file)
    if way == "torch":
        assert "mkdir" in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's own advice is to switch the guard off
    assert not trace.exists()


def test_foreign_files_and_other_formats_are_told_apart(tmp_path):
    foreign = tmp_path / "foreign.pth"
    torch.save({"layer.weight": torch.zeros(2)}, foreign)
    message = (
        f"{foreign} is not a checkpoint of tapetum. Weights of a published network are given as weights="
    )
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(foreign)
    with zipfile.ZipFile(tmp_path / "archive.ckpt", "w") as archive:
        archive.writestr("readme.txt", "not torch")
    with pytest.raises(CheckpointError, match=r"archive.ckpt is not a checkpoint of tapetum: "):
        read_checkpoint(tmp_path / "archive.ckpt")
    torch.save({"tapetum": {"format": 99}}, tmp_path / "future.ckpt")
    with pytest.raises(CheckpointError, match="has checkpoint format 99, this version reads 1"):
        read_checkpoint(tmp_path / "future.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*absent.ckpt"):
        read_checkpoint(tmp_path / "absent.ckpt")
