"""Captioning from the command line: train, evaluate, predict, resume and report, on tiny data and models."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from tapetum.backbones import tiny
from tapetum.backbones.bpe import tokenizer_of
from tapetum.runs.checkpoints import adapter_directory, read_checkpoint

from commands.experiments import run
from layouts import make_flickr30k
from modules.captioning_parts import SAID, write_pictures

SMALL = (
    "model=pixel_llm_small",
    *("model.net.size=16", "model.net.width=16", "model.net.heads=2", "model.net.depth=1"),
    "model.net.patch_size=8",
    *("model.net.decoder_depth=1", "model.net.vocabulary=300", "model.generation.max_new_tokens=8"),
    *("data=image_text_folder", "data.batch_size=4", "data.num_workers=0", "accelerator=cpu"),
    "scheduler.warmup_epochs=0",
)


def captioning_runs(outputs):
    return sorted(config.parent for config in Path(outputs).glob("captioning/*/*/config.yaml"))


def trained(root, outputs, *more):
    before = set(captioning_runs(outputs))
    words = [*SMALL, f"data.root={root}", f"paths.outputs={outputs}", "trainer.max_epochs=2", *more]
    assert run("train", *words) == 0
    (made,) = set(captioning_runs(outputs)) - before
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "root")


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    return trained(pictures, tmp_path_factory.mktemp("outputs"))


def test_a_run_has_figures_captions_and_the_tokenizer_that_it_learnt(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    for name in ("loss", "perplexity", "bleu_4", "rouge_l", "cider", "exact_match", "most_frequent/rouge_l"):
        assert {f"val/{name}", f"test/{name}"} <= metrics.keys()
    assert metrics["test/references"] == 1
    assert metrics["val/references"] == 3
    table = pq.read_table(finished / "predictions" / "test.parquet")
    assert table["references"].to_pylist() == SAID["test"]
    assert len(tokenizer_of((finished / "tokenizer.json").read_text())) <= 300
    assert "tokenizer: null" in (finished / "config.yaml").read_text()


def test_the_report_shows_captions_under_their_pictures(finished):
    page = (finished / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64") > 3
    for text in ("a red square", "Drawn at random", "most frequent caption", "right to the word"):
        assert text in page, text


def test_a_checkpoint_alone_writes_captions(finished, pictures, tmp_path):
    alone = tmp_path / "best.ckpt"
    shutil.copy(finished / "checkpoints" / "best.ckpt", alone)
    captions = tapetum.load(alone).caption([pictures / "test" / "00.png", pictures / "test" / "01.png"])
    table = pq.read_table(finished / "predictions" / "test.parquet")
    assert captions == table["text"].to_pylist()[:2]


def test_predict_writes_captions_and_lists_what_is_no_picture(finished, pictures, tmp_path, capsys):
    folder = tmp_path / "new"
    shutil.copytree(pictures / "test", folder)
    (folder / "broken.png").write_bytes(b"no picture")
    assert run("predict", str(finished), str(folder), str(tmp_path / "captions.csv")) == 3
    rows = list(csv.DictReader((tmp_path / "captions.csv").open(encoding="utf-8")))
    table = pq.read_table(finished / "predictions" / "test.parquet")
    assert [row["text"] for row in rows] == table["text"].to_pylist()
    assert "broken.png" in (tmp_path / "captions.csv.unreadable.csv").read_text()
    out = str(tmp_path / "beam.parquet")
    words = ["model.generation.strategy=beam", "model.generation.beams=2"]
    assert run("predict", str(finished), str(pictures / "test"), out, *words) == 0
    assert "captions, written in up to 8 tokens, the best of 2 beams" in capsys.readouterr().out
    assert pq.read_table(out).column_names == ["path", "text"]


def test_evaluate_takes_other_data_and_other_ways_of_writing(finished, pictures, tmp_path):
    assert run("evaluate", str(finished), "model.generation.max_new_tokens=3") == 0
    (made,) = finished.glob("evaluations/*")
    short = json.loads((made / "metrics.json").read_text())
    own = json.loads((finished / "metrics.json").read_text())
    assert short["test/loss"] == pytest.approx(own["test/loss"], rel=1e-6)
    ends = (made, finished)
    texts = [pq.read_table(one / "predictions" / "test.parquet")["text"].to_pylist() for one in ends]
    assert max(map(len, texts[0])) < min(map(len, texts[1]))
    assert "added_tokens" not in (made / "report" / "index.html").read_text()


def test_new_training_from_weights_keeps_their_words(finished, tmp_path):
    other = write_pictures(tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    changed = {name: [f"etwas ganz {text}" for text in texts] for name, texts in manifest.items()}
    (other / "manifest.json").write_text(json.dumps(changed))
    made = trained(other, tmp_path / "outputs", f"weights={finished}", "trainer.max_epochs=1")
    assert (made / "tokenizer.json").read_text() == (finished / "tokenizer.json").read_text()


def test_weights_without_their_tokenizer_are_refused(finished, pictures, tmp_path, capsys):
    bare = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, bare)
    words = [*SMALL, f"data.root={pictures}", f"paths.outputs={tmp_path}", f"weights={bare}"]
    assert run("train", *words) == 2
    assert "come without the tokenizer that they have learnt with" in capsys.readouterr().err


def test_a_resumed_run_ends_with_the_same_weights(pictures, tmp_path):
    even = "scheduler=constant"  # others are as long as the run
    whole = trained(pictures, tmp_path / "whole", "trainer.max_epochs=3", even)
    first = trained(pictures, tmp_path / "parts", "trainer.max_epochs=1", even)
    words = [*SMALL, even, f"data.root={pictures}", f"paths.outputs={tmp_path / 'parts'}", f"resume={first}"]
    assert run("train", *words, "trainer.max_epochs=3") == 0
    ends = [read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (whole, first)]
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name


@pytest.fixture(scope="module")
def flickr(tmp_path_factory):
    root = tmp_path_factory.mktemp("flickr")
    make_flickr30k(root / "flickr30k")
    tiny.clip(root / "tiny-clip")
    tiny.qwen3(root / "tiny-qwen3")
    return root


def clip_qwen(flickr, outputs, *more):
    before = set(captioning_runs(outputs))
    words = [
        *("model=clip_qwen", "data=flickr30k", f"data.root={flickr}/flickr30k", "accelerator=cpu"),
        *(f"model.net.backbone={flickr}/tiny-clip", f"model.net.language_model={flickr}/tiny-qwen3"),
        *("trainer.max_epochs=2", "data.num_workers=0", f"paths.outputs={outputs}"),
        *("scheduler.warmup_epochs=0", "model.generation.max_new_tokens=8", *more),
    ]
    assert run("train", *words) == 0
    (made,) = set(captioning_runs(outputs)) - before
    return made


def test_clip_and_qwen_caption_flickr30k_and_keep_the_adapter_alone(flickr, tmp_path):
    made = clip_qwen(flickr, tmp_path)
    stored = read_checkpoint(made / "checkpoints" / "best.ckpt")["state_dict"]
    assert stored
    assert all(name.startswith("net.adapter.") for name in stored)
    loaded = tapetum.load(made)
    table = pq.read_table(made / "predictions" / "test.parquet")
    paths = [flickr / "flickr30k" / path for path in table["path"].to_pylist()]
    assert loaded.caption(paths) == table["text"].to_pylist()


def test_kept_features_give_the_same_training(flickr, tmp_path, monkeypatch):
    monkeypatch.setenv("TAPETUM_CACHE", str(tmp_path / "cache"))
    live, kept = (clip_qwen(flickr, tmp_path, f"data.cache={cache}") for cache in ("none", "features"))
    ends = [read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (live, kept)]
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-6), name
    losses = [json.loads((one / "metrics.json").read_text())["test/loss"] for one in (live, kept)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert list((tmp_path / "cache" / "features").glob("*/features.bin"))


def test_a_low_rank_language_model_is_a_directory_that_peft_loads(flickr, tmp_path):
    made = clip_qwen(flickr, tmp_path, "model.net.language=lora")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    directory = adapter_directory(made / "checkpoints" / "best.ckpt")
    base = AutoModelForCausalLM.from_pretrained(flickr / "tiny-qwen3")
    theirs = PeftModel.from_pretrained(base, directory).state_dict()
    ours = tapetum.load(made).module.net.decoder.model.state_dict()
    adapters = [name for name in ours if "lora" in name]
    assert adapters
    assert all(torch.equal(ours[name], theirs[name]) for name in adapters)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("train.monitor=val/cider", "train.mode=max", "model.generate_every_n_epochs=2"),
            "in every 2th epoch",
        ),
        (("model.generation.max_new_tokens=64",), "and the language model has"),
        (("model.net.vocabulary=100",), "model.net.vocabulary=100 is too small"),
        (("model.generation.beam=3",), "model.generation.beams"),
        (("model.net.size=17",), "model.net.size=17 is no multiple of model.net.patch_size=8"),
    ],
)
def test_settings_that_can_not_be_meant_are_said_at_once(pictures, tmp_path, capsys, words, message):
    assert run("train", *SMALL, f"data.root={pictures}", f"paths.outputs={tmp_path}", *words) == 2
    assert message in capsys.readouterr().err


def test_wandb_gets_the_captions_with_their_pictures_as_a_table(pictures, tmp_path):
    made = trained(pictures, tmp_path, "logger=wandb", "logger.wandb.mode=offline")
    (file,) = made.glob("wandb/offline-run-*/files/media/table/captions_*.table.json")
    table = json.loads(file.read_text())
    assert table["columns"] == ["image", "path", "caption", "references"]
    predicted = pq.read_table(made / "predictions" / "test.parquet")
    assert [row[2] for row in table["data"]] == predicted["text"].to_pylist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.generation.beams=0",), "model.generation.beams=0 is out of range: 1 or more"),
        (("model.generation.max_new_tokens=0",), "model.generation.max_new_tokens=0 is out of range"),
        (("model.net.heads=0",), "model.net.heads=0 must be at least 1"),
        (("model.net.depth=-1",), "model.net.depth=-1 must be at least 1"),
        (("model.net.max_caption_length=1",), "model.net.max_caption_length=1 leaves no room"),
        (("data.cache=features",), "for captions clip_qwen"),
    ],
)
def test_check_says_what_training_would_stumble_over(pictures, capsys, words, message):
    assert run("check", *SMALL, f"data.root={pictures}", *words) == 2
    assert message in capsys.readouterr().err
