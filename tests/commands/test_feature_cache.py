"""data.cache=features in a whole run: the same training, validation and predictions as without it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tapetum.commands.preflight import preflight
from tapetum.config.check import check_config
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.errors import ConfigError
from tapetum.runs.checkpoints import read_checkpoint
from tapetum.runs.history import read_history

from commands.experiments import run, runs, tiny, train

# SGD, because Adam's first steps have the size of lr whatever the gradient's, and so enlarge its last bit.
FROZEN = (
    "model.net.freeze=true",
    "augment=none",
    "trainer.max_epochs=2",
    "optimizer=sgd",
    "optimizer.lr=0.01",
)
CURVES = ("train/loss", "train/loss_step", "train/accuracy", "val/loss", "val/auroc")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAPETUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def curves(directory: Path) -> list[dict[str, float]]:
    return [
        {name: row[name] for name in CURVES if name in row} for row in read_history(directory / "metrics.csv")
    ]


def refused(folder: Path, tmp_path: Path, *overrides: str) -> str:
    composed = compose(prepare(tiny(folder, tmp_path, *overrides, "data.cache=features"), multirun=False))
    check_config(composed)
    with pytest.raises(ConfigError) as caught:
        preflight(composed.config)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_a_run_with_the_cache_is_the_run_without_it(folder, tmp_path, cache):
    live = train(folder, tmp_path / "live", *FROZEN)
    kept = train(folder, tmp_path / "kept", *FROZEN, "data.cache=features")
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    assert len(curves(live)) == len(curves(kept))
    for one, other in zip(curves(live), curves(kept), strict=True):
        assert one == pytest.approx(other, rel=0, abs=1e-5)
    for split in ("val", "test"):
        one, other = (
            pq.read_table(place / "predictions" / f"{split}.parquet").to_pydict() for place in (live, kept)
        )
        assert one["index"] == other["index"]
        assert one["logit"] == pytest.approx(other["logit"], abs=1e-5)
    weights = [read_checkpoint(place / "checkpoints" / "last.ckpt")["state_dict"] for place in (live, kept)]
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        assert weights[0][name].float().numpy() == pytest.approx(weights[1][name].float().numpy(), abs=1e-5)
    assert run("evaluate", str(kept)) == 0


def test_a_dry_run_computes_the_batches_it_looks_at(folder, tmp_path, cache):
    arguments = tiny(folder, tmp_path, *FROZEN[:2], "data.cache=features", "trainer.fast_dev_run=true")
    assert run("train", *arguments) == 0
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    kept = (directory / "rows.u8").read_bytes()
    assert 0 < sum(kept) < len(kept)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model.net.freeze=false",), "nothing of TimmBackbone is frozen"),
        (("model.net.freeze=true", "augment=crop_flip"), "type augment=none"),
        (("model.net.freeze=true", "train.compile=true"), "type train.compile=false"),
        (("model=npr_64",), "keeps what a frozen tower returns, and NPR has none"),
        (
            (
                "model.net.freeze=true",
                "callbacks=gradual_unfreeze",
                "callbacks.gradual_unfreeze.schedule={1: all}",
            ),
            "callbacks=gradual_unfreeze will train that part",
        ),
    ],
)
def test_what_cannot_be_kept_is_told_before_anything_runs(folder, tmp_path, overrides, said):
    assert said in refused(folder, tmp_path, *overrides)
    assert not runs(tmp_path)


@pytest.mark.parametrize("model", ["clip_linear", "clip_lora", "clip_finetune", "clip_prompt"])
def test_every_way_of_using_clip_trains_on_what_lies_below_its_first_trained_layer(folder, tmp_path, model):
    clip = tmp_path / "clip"
    assert run("tiny", "clip", str(clip)) == 0
    blocks = ["model.net.last_blocks=2"] if model in ("clip_lora", "clip_finetune") else []
    words = [
        f"model={model}", f"model.net.backbone={clip}", "model.net.pretrained=true", *blocks, *FROZEN[1:],
        "seed=3",
    ]  # fmt: skip
    if model == "clip_lora":
        words.append("model.net.dropout=0")
    live = train(folder, tmp_path / "live", *words)
    kept = train(folder, tmp_path / "kept", *words, "data.cache=features")
    for one, other in zip(curves(live), curves(kept), strict=True):
        assert one == pytest.approx(other, rel=0, abs=1e-5)
