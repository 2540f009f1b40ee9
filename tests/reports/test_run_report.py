import io
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tapetum.errors import ImageError
from tapetum.evaluation.advice import Advice
from tapetum.evaluation.detection import evaluate, intervals
from tapetum.reports.detection import write_detection_report as write_report
from tapetum.reports.run import RunReport
from tapetum.reports.sections import typed

from evaluation.prediction_tables import predictions, random_predictions
from reports.pages import read

CONFIG = {
    "task": "detection",
    "seed": 42,
    "model": {"net": {"_target_": "tapetum.detectors.npr.NPR", "pretrained": False}},
    "data": {"root": "data/x", "batch_size": 32},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.0001},
    "trainer": {"max_epochs": 3, "accumulate_grad_batches": 1},
}
ENVIRONMENT = {
    "python": "3.12.1",
    "packages": {"tapetum": "0.1.0", "torch": "2.15.0"},
    "git": {"sha": "0123456789abcdef", "dirty": True},
    "cpu": {"model": "A CPU", "cores": 2},
    "memory_gb": 16.0,
    "gpus": [],
}
HISTORY = [
    {"epoch": epoch, "step": 10 * epoch + 9, "train/loss": 1 / (epoch + 1), "val/auroc": 0.8 + 0.05 * epoch}
    for epoch in range(3)
]


def report(**changes):
    values = {
        "title": "a run",
        "config": CONFIG,
        "environment": ENVIRONMENT,
        "command": "python train.py model=npr",
        "history": HISTORY,
        "metrics": {},
        "predictions": {},
        "monitor": "val/auroc",
        "mode": "max",
    }
    return RunReport(**(values | changes))


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures of one pixel, for tests that look at the words only."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    monkeypatch.setattr("tapetum.reports.plots.render", lambda draw, size: buffer.getvalue())


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    test, val = random_predictions(300, seed=1), random_predictions(120, seed=2, split="val")
    source = report(
        metrics={"val/loss": 0.4321, "test/loss": 0.5432},
        predictions={"val": val, "test": test},
        load_image=lambda path: np.full((8, 12, 3), 90, np.uint8),
        notes=["2 unreadable images skipped"],
        limits=["synthetic data"],
        threshold=0.25,
        duration_s=372.4,
    )
    out = tmp_path_factory.mktemp("report")
    return write_report(source, out), test


def test_the_page_is_well_formed_and_needs_nothing_from_outside(full):
    page = read(full[0])
    assert page.problems == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    addresses = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)
    assert not re.search(r"https?://|@import|url\(", full[0].read_text(encoding="utf-8"))


def test_the_page_holds_the_figures_their_intervals_and_what_was_run(full):
    page, test = read(full[0]), full[1]
    figures, bounds = evaluate(test, threshold=0.25), intervals(test, threshold=0.25)
    assert f"{100 * figures['accuracy']:.1f} %" in page.text
    assert f"95 % interval {100 * bounds['accuracy'][0]:.1f}–{100 * bounds['accuracy'][1]:.1f} %" in page.text
    for name in ("auroc", "ap", "generator/GLIDE/auroc", "generator_min/accuracy", "accuracy_tuned"):
        assert f"{figures[name]:.4f}" in page.text, name
    for words in (
        "0.4321",
        "0.5432",
        "python train.py model=npr",
        "npr.NPR",
        "optim.AdamW, lr 0.0001",
        "0123456789ab, with uncommitted changes",
        "6 min 12 s",
        "2 unreadable images skipped",
        "synthetic data",
        "batch_size: 32",
    ):
        assert words in page.text, words


def test_the_page_says_which_figures_chose_something(full):
    text = read(full[0]).text
    assert "val/auroc chose the checkpoint: 0.9 in epoch 3 (higher is better)." in text
    assert "logit +0.250, was fitted on val" in text
    assert "The test figures chose nothing." in text


def test_the_threshold_fitted_on_val_is_judged_on_test_only(full):
    row = re.search(r"accuracy_<wbr>tuned</td>(.*?)</tr>", full[0].read_text(encoding="utf-8"), re.DOTALL)
    val, _, test, bounds = re.findall(r"<td[^>]*>(.*?)</td>", row.group(1), re.DOTALL)
    assert val == ""
    assert test == f"{evaluate(full[1], threshold=0.25)['accuracy_tuned']:.4f}"
    assert "–" in bounds


def test_every_picture_lies_beside_the_page_as_png(full):
    pictures = {path.stem: path.read_bytes() for path in full[0].parent.glob("*.png")}
    assert set(pictures) == {
        "training_curve", "roc", "precision_recall", "confusion", "scores", "generators", "reliability",
    }  # fmt: skip
    for png in pictures.values():
        assert png.startswith(b"\x89PNG")
        assert struct.unpack(">II", png[16:24]) > (400, 300)
    assert {path.name for path in full[0].parent.iterdir()} == {
        "index.html",
        *(f"{name}.png" for name in pictures),
    }


def test_the_24_most_confidently_wrong_are_shown_worst_first(full):
    html, test = full[0].read_text(encoding="utf-8"), full[1]
    wrong = [row for row in test.to_pylist() if (row["logit"] > 0) != (row["label"] == 1)]
    wrong.sort(key=lambda row: (-abs(row["logit"]), row["index"]))
    assert len(wrong) > 24
    shown = re.findall(r'alt="(test/\d+\.png)"', html)
    assert shown == [row["path"] for row in wrong[:24]]


@pytest.mark.usefixtures("undrawn")
def test_hostile_names_stay_text(tmp_path):
    evil = '<script>alert(1)</script>"onerror="x'
    table = predictions([0, 1, 0, 1], [2.0, -1.0, -1.0, 1.0], [None, evil, None, evil], paths=[evil] * 4)
    source = report(
        title=evil, command=evil, notes=[evil], config=CONFIG | {"name": evil}, predictions={"test": table}
    )
    page = write_report(source, tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    parsed = read(page)
    assert parsed.problems == []
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert evil in parsed.text


@pytest.mark.usefixtures("undrawn")
def test_a_thumbnail_that_cannot_be_read_says_why(tmp_path):
    def load(path):
        if path == "test/0.png":
            raise ImageError("truncated after 10 bytes")
        raise FileNotFoundError("moved away")

    page = read(
        write_report(
            report(predictions={"test": predictions([0, 1], [1.0, -1.0])}, load_image=load), tmp_path
        )
    )
    assert "truncated after 10 bytes" in page.text
    assert "moved away" in page.text


@pytest.mark.usefixtures("undrawn")
def test_a_defect_of_the_loader_is_not_swallowed(tmp_path):
    def load(path):
        raise KeyError(path)

    with pytest.raises(KeyError):
        write_report(report(predictions={"test": predictions([0], [1.0])}, load_image=load), tmp_path)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("dtype", ["grey", "grey16"])
def test_grey_images_have_thumbnails(tmp_path, dtype):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    if dtype == "grey16":
        image = image.astype(np.uint16) * 257
    source = report(predictions={"test": predictions([0], [1.0])}, load_image=lambda path: image)
    assert 'alt="test/0.png"' in write_report(source, tmp_path).read_text(encoding="utf-8")


def test_an_evaluation_does_not_say_that_its_training_failed(tmp_path):
    page = read(
        write_report(report(history=[], predictions={"test": predictions([0, 1], [-1.0, 1.0])}), tmp_path)
    )
    assert "Nothing was trained here" in page.text
    assert "No checkpoint was chosen" not in page.text


def test_a_run_that_crashed_before_its_first_epoch_has_a_page(tmp_path):
    page = read(write_report(report(history=[], limits=["crashed at epoch 0"]), tmp_path))
    assert page.problems == []
    assert "crashed at epoch 0" in page.text
    assert "No checkpoint was chosen: val/auroc never had a finite value." in page.text
    assert "No predictions were written" in page.text
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.usefixtures("undrawn")
def test_without_validation_the_page_speaks_of_no_val_figures(tmp_path):
    history = [{"epoch": 0, "step": 9, "train/loss": 0.5}]
    source = report(
        history=history, predictions={"test": random_predictions(80)}, monitor="train/loss", mode="min"
    )
    text = read(write_report(source, tmp_path)).text
    assert "train/loss chose the checkpoint: 0.5 in epoch 1 (lower is better)." in text
    assert "val figures" not in text


@pytest.mark.usefixtures("undrawn")
def test_without_test_the_pictures_show_val_and_the_page_says_so(tmp_path):
    text = read(write_report(report(predictions={"val": random_predictions(80, split="val")}), tmp_path)).text
    assert "Decisions and scores on val" in text
    assert "There are no test figures" in text
    assert "The test figures chose nothing" not in text


def test_one_class_is_undefined_with_the_reason_and_never_zero(tmp_path):
    table = predictions([1, 1, 1], [1.0, 2.0, -1.0], ["ADM"] * 3)
    page = read(write_report(report(predictions={"test": table}), tmp_path))
    assert "The test split holds generated images only (3)" in page.text
    assert "test AUROC undefined needs images of both classes" in page.text
    for name in ("auroc", "ap", "balanced_accuracy", "real_accuracy", "generator/ADM/auroc"):
        assert f" {name} undefined " in page.text, name
    assert not (tmp_path / "roc.png").exists()


def test_an_empty_split_has_a_page(tmp_path):
    page = read(write_report(report(predictions={"test": predictions([], [])}), tmp_path))
    assert page.problems == []
    assert "The test split holds no image" in page.text


@pytest.mark.usefixtures("undrawn")
def test_generated_rows_without_a_generator_beside_named_ones_are_counted(tmp_path):
    table = predictions([1, 1, 1, 0], [1.0, 1.0, 1.0, -1.0], ["ADM", None, None, None])
    text = read(write_report(report(predictions={"test": table}), tmp_path)).text
    assert "2 of 3 generated test images name no generator" in text


def test_a_loss_that_broke_still_gives_a_page(tmp_path):
    history = [
        {"epoch": e, "step": e, "train/loss": v, "val/auroc": v} for e, v in enumerate([0.5, float("nan")])
    ]
    page = read(write_report(report(history=history), tmp_path))
    assert "val/auroc chose the checkpoint: 0.5 in epoch 1" in page.text
    assert (tmp_path / "training_curve.png").exists()


@pytest.mark.usefixtures("undrawn")
def test_metrics_of_the_run_win_over_what_is_counted_again(tmp_path):
    source = report(metrics={"test/auroc": 0.12345678}, predictions={"test": random_predictions(80)})
    assert "0.1235" in read(write_report(source, tmp_path)).text


OVERFITTING = Advice("overfitting", "seen <1>", "It means.", ("model.net.dropout=0.5",), (("augment=none",),))


@pytest.mark.usefixtures("undrawn")
def test_advice_stands_with_its_evidence_and_its_commands(tmp_path):
    nothing = Advice("little_data", "9 training images", "Gather more.", ())
    page = read(write_report(report(command="train.py model=npr", advice=[OVERFITTING, nothing]), tmp_path))
    assert page.problems == []
    for words in (
        "Overfitting Seen: seen <1>. It means.",
        "python train.py model=npr model.net.dropout=0.5 Or",
        "Or python train.py model=npr augment=none",
        "Little data Seen: 9 training images. Gather more.",
    ):
        assert words in page.text, words
    assert "Nothing stands out" not in page.text


@pytest.mark.usefixtures("undrawn")
def test_without_advice_the_page_says_that_nothing_stands_out_or_why_nobody_looked(tmp_path):
    config = CONFIG | {"model": {**CONFIG["model"], "fit": True}}
    judged = read(write_report(report(config=config, advice=[]), tmp_path)).text
    assert "What to try next by rules of thumb, each a new run Nothing stands out." in judged
    partly = config | {"trainer": {"max_epochs": 3, "overfit_batches": 2}}
    text = read(write_report(report(config=partly, advice=[]), tmp_path)).text
    assert (
        "Not judged: the run was kept to a part of the training images (trainer.overfit_batches=2)." in text
    )
    assert "What to try next" not in read(write_report(report(), tmp_path)).text


@pytest.mark.parametrize(
    ("command", "typed_now"),
    [
        ("train.py a=1", "python train.py a=1 data.x=2"),
        ("train.py", "python train.py data.x=2"),
        ("tapetum train a=1", "tapetum train a=1 data.x=2"),
        ("__main__.py train a=1", "python -m tapetum train a=1 data.x=2"),
        ("train.py data.x=1 +data.x=3 data.x.y=1 data.xy=1", "python train.py data.xy=1 data.x=2"),
        ("train.py 'a={b: 1}' ~c", "python train.py 'a={b: 1}' '~c' data.x=2"),
        ("train.py a=1\ntrain.py a=1 b=2 resume=auto", "python train.py a=1 b=2 data.x=2"),
        ("train.py -m a=1,2", "data.x=2"),
        ("own_script.py a=1", "data.x=2"),
        ("train.py a='1", "data.x=2"),
        ("", "data.x=2"),
    ],
)
def test_the_command_to_type_repeats_the_last_start_with_new_values(command, typed_now):
    assert "".join(typed(command, ("data.x=2",))) == typed_now


def test_a_group_takes_its_keys_along_and_callbacks_keep_theirs():
    augment = typed("train.py augment=none augment.enlarge=8", ("augment=wang2020",))
    assert "".join(augment) == "python train.py augment=wang2020"
    patience = "callbacks.early_stopping.patience=5"
    search = typed(f"train.py callbacks=ema {patience}", ("callbacks=[ema,lr_finder]",))
    assert "".join(search) == f"python train.py {patience} 'callbacks=[ema,lr_finder]'"
    assert patience not in "".join(typed(f"train.py {patience}", ("debug=overfit",)))


def test_matplotlib_and_torch_wait_until_a_report_is_written():
    code = (
        "import sys, tapetum.reports.detection, tapetum.reports.compare, tapetum.reports.terminal; "
        "print(sorted({'matplotlib', 'torch', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
