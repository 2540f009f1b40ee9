"""Vision-language models from the command line: train, evaluate, predict, export and reload, all tiny."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tapetum
import torch
from tapetum.errors import ConfigError
from tapetum.runs.checkpoints import read_checkpoint

from commands.experiments import run
from layouts import make_cifake, make_genimage, make_llava

TINY = (
    "accelerator=cpu",
    *("data.num_workers=0", "data.batch_size=4", "trainer.max_epochs=1", "scheduler.warmup_epochs=0"),
    "model.generation.max_new_tokens=4",
)
LORA = ("model=instructblip_lora", "model.net.backbone=tiny:instructblip")


def vlm_runs(outputs):
    return sorted(config.parent for config in Path(outputs).glob("vlm/*/*/config.yaml"))


def trained(outputs, *words):
    before = set(vlm_runs(outputs))
    assert run("train", *TINY, f"paths.outputs={outputs}", *words) == 0
    (made,) = set(vlm_runs(outputs)) - before
    return made


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_genimage(tmp_path_factory.mktemp("genimage") / "root")


@pytest.fixture(scope="module")
def judged(photos, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("outputs")
    return trained(outputs, *LORA, "data=genimage", f"data.root={photos}", "model.net.projector=trained")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    few = ("data=synthetic_vqa", "data.index.train=40", "data.index.test=12")
    return trained(tmp_path_factory.mktemp("outputs"), "model=instructblip_small", *few)


def test_a_detection_set_is_judged_generator_by_generator_and_answered(judged):
    metrics = json.loads((judged / "metrics.json").read_text())
    names = {"accuracy", "precision", "recall", "f1", "auroc", "ap", "loss", "invalid", "written_accuracy"}
    assert {f"test/{name}" for name in names} <= metrics.keys()
    assert any(name.startswith("test/generator/") and name.endswith("/auroc") for name in metrics)
    assert any(name.startswith("test/generator/") and name.endswith("/invalid") for name in metrics)
    table = pq.read_table(judged / "predictions" / "test.parquet")
    scores = np.array(table["log_likelihoods"].to_pylist())
    assert table["logit"].to_numpy() == pytest.approx(scores[:, 1] - scores[:, 0], abs=1e-5)
    assert (scores <= 0).all()


def test_its_report_shows_what_was_written(judged):
    page = (judged / "report" / "index.html").read_text()
    for text in ("Written answers", "by likelihood, at logit 0", "By generator", "ROC"):
        assert text in page, text


def test_the_checkpoint_holds_what_trains_alone(judged):
    checkpoint = read_checkpoint(judged / "checkpoints" / "best.ckpt")
    names = checkpoint["state_dict"]
    assert all("lora_" in name or "language_projection" in name for name in names), list(names)[:5]
    assert (judged / "checkpoints" / "best-adapter" / "adapter_model.safetensors").is_file()


def test_predict_gives_verdicts_texts_and_likelihoods(judged, photos, tmp_path, capsys):
    source = next(iter(sorted(photos.rglob("val/ai"))))
    assert run("predict", str(judged), str(source), str(tmp_path / "out.csv")) == 0
    rows = list(csv.DictReader((tmp_path / "out.csv").open(encoding="utf-8")))
    said = capsys.readouterr().out
    assert "asked “Is this image real or AI-generated? Answer with one word.”, real is “real”" in said
    other = ["model.answers=[photo,painting]"]
    assert run("predict", str(judged), str(source), str(tmp_path / "other.csv"), *other) == 0
    assert "fitted" not in capsys.readouterr().out, "a threshold belongs to its question"
    for row in rows:
        logit = float(row["log_likelihood_generated"]) - float(row["log_likelihood_real"])
        assert float(row["logit"]) == pytest.approx(logit, abs=1e-4)
        assert row["valid"] in ("True", "False")
    assert run("predict", str(judged), str(source), str(tmp_path / "free.parquet"), "model.prompt=What?") == 0
    assert pq.read_table(tmp_path / "free.parquet").column_names == ["path", "text"]
    said = capsys.readouterr().out
    assert "asked “What?”, written in up to 4 tokens, the likeliest token each time\n" in said


def test_a_run_in_python_predicts_what_its_evaluation_did(judged, photos):
    table = pq.read_table(judged / "predictions" / "test.parquet")
    paths = [photos / path for path in table["path"].to_pylist()]
    loaded = tapetum.load(judged)
    found = loaded.predict(paths)
    assert found["logit"].to_numpy() == pytest.approx(table["logit"].to_numpy(), abs=1e-4)
    assert found["text"].to_pylist() == table["text"].to_pylist()
    assert len(loaded.ask(paths[:2], "What is this?")) == 2
    assert loaded.predict(paths[:1]).column_names == found.column_names  # asks its own question again
    with pytest.raises(ConfigError, match="has no embeddings"):
        loaded.embed(paths)


def test_evaluate_takes_other_data_and_another_question(judged, tmp_path):
    other = make_cifake(tmp_path / "cifake")
    words = ["data=cifake", f"data.root={other}", "data.num_workers=0"]
    asks = ["model.prompt=Real?", "model.answers=[yes,no]", "model.answer_score=sum"]
    assert run("evaluate", str(judged), *words, *asks) == 0
    (made,) = judged.glob("evaluations/cifake-*")
    config = (made / "config.yaml").read_text()
    assert "prompt: Real?" in config
    found = json.loads((made / "metrics.json").read_text())
    assert "test/auroc" in found
    assert "test/accuracy_tuned" not in found, "the run's threshold is of its own question"


def test_an_exported_adapter_and_a_merged_model_answer_as_the_run_does(judged, photos, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoTokenizer, InstructBlipForConditionalGeneration

    table = pq.read_table(judged / "predictions" / "test.parquet")
    paths = [photos / path for path in table["path"].to_pylist()][:4]
    net = tapetum.load(judged).module.net
    encode = net.encode_fn(net.input_spec.size)
    conversation = [
        {"role": "user", "content": "<image>\nIs this image real or AI-generated? Answer with one word."},
        {"role": "assistant", "content": "real"},
    ]
    inputs = encode([conversation])
    from tapetum.images.geometry import prepare
    from tapetum.images.sources import read_image

    image = read_image(paths[0].parent, paths[0].name, channels=3, backend="fast")
    pixels = net.normalize(prepare(image, net.input_spec)[None])

    def logits(model):
        model.eval()
        taken = {name: value for name, value in inputs.items() if name not in ("labels", "truncated")}
        with torch.no_grad():
            return model(pixel_values=pixels, **taken).logits

    expected = logits(net.plain)
    assert run("export", str(judged), str(tmp_path / "adapter")) == 0
    assert run("export", str(judged), str(tmp_path / "whole"), "merge=true") == 0
    assert "transformers alone" in capsys.readouterr().out
    whole = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert torch.allclose(logits(whole), expected, atol=1e-5)
    from tapetum.backbones.repository import directory_of

    base = InstructBlipForConditionalGeneration.from_pretrained(directory_of("tiny:instructblip"))
    assert not torch.allclose(logits(base), expected, atol=1e-5)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.allclose(logits(adapted), expected, atol=1e-5)
    for place in ("adapter", "whole"):
        assert AutoTokenizer.from_pretrained(tmp_path / place).vocab_size > 100
        assert (tmp_path / place / "qformer_tokenizer").is_dir()
    assert run("export", str(judged), str(tmp_path / "whole")) == 1
    assert "is not overwritten" in capsys.readouterr().err


def test_a_run_on_conversations_says_what_has_to_be_beaten(asked, capsys):
    metrics = json.loads((asked / "metrics.json").read_text())
    for name in ("exact_match", "token_f1", "rouge_l"):
        for of in (name, f"most_frequent/{name}", f"most_frequent_of_question/{name}"):
            assert 0 <= metrics[f"test/{of}"] <= 1, of
    table = pq.read_table(asked / "predictions" / "test.parquet")
    assert {"question", "answer", "text", "nll", "tokens"} <= set(table.column_names)
    assert not any("<image>" in one for one in table["question"].to_pylist())
    page = (asked / "report" / "index.html").read_text()
    for text in ("By question", "How right the answers are", "Drawn at random"):
        assert text in page, text
    assert run("report", str(asked)) == 0


def test_a_run_on_conversations_is_asked_when_it_predicts(asked, photos, tmp_path, capsys):
    source = next(iter(sorted(photos.rglob("val/ai"))))
    assert run("predict", str(asked), str(source), str(tmp_path / "a.csv")) == 2
    assert "this model was trained on conversations, and nothing is asked" in capsys.readouterr().err
    assert "prompt: null" in (asked / "config.yaml").read_text()
    assert run("predict", str(asked), str(source), str(tmp_path / "a.csv"), "model.prompt=How many?") == 0
    row = next(csv.DictReader((tmp_path / "a.csv").open(encoding="utf-8")))
    assert list(row) == ["path", "text"]


def test_kept_features_train_to_the_same_weights(photos, tmp_path):
    words = (*LORA, "data=genimage", f"data.root={photos}", "model.net.dropout=0.0")
    live = trained(tmp_path / "live", *words)
    kept = trained(tmp_path / "kept", *words, "data.cache=features")
    weights = [read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (live, kept)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name


def test_a_learned_word_is_all_that_trains(photos, tmp_path):
    words = ("model=instructblip_prompt", "model.net.backbone=tiny:instructblip")
    made = trained(tmp_path, *words, "data=genimage", f"data.root={photos}")
    names = read_checkpoint(made / "checkpoints" / "best.ckpt")["state_dict"]
    assert len(names) == 2, list(names)
    before = json.loads((made / "metrics.json").read_text())
    assert run("evaluate", str(made)) == 0
    (again,) = made.glob("evaluations/*")
    after = json.loads((again / "metrics.json").read_text())
    assert after["test/auroc"] == pytest.approx(before["test/auroc"], abs=1e-6)


def test_qwen_vl_answers_through_the_same_commands(photos, tmp_path):
    words = ("model=qwen_vl_lora", "model.net.backbone=tiny:qwen_vl", "model.geometry.size=56")
    made = trained(tmp_path, *words, "data=genimage", f"data.root={photos}")
    assert "test/auroc" in json.loads((made / "metrics.json").read_text())
    assert run("export", str(made), str(tmp_path / "whole"), "merge=true") == 0
    from transformers import Qwen2_5_VLForConditionalGeneration

    whole = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert whole.config.text_config.vocab_size > 100
    assert whole.generation_config.eos_token_id is not None


def test_several_images_in_a_conversation_are_shown_to_a_qwen_vl(tmp_path):
    root = make_llava(tmp_path / "root", splits=True)
    words = ("model=qwen_vl_lora", "model.net.backbone=tiny:qwen_vl", "model.geometry.size=56")
    made = trained(tmp_path, *words, "data=llava", f"data.root={root}")
    assert "test/exact_match" in json.loads((made / "metrics.json").read_text())


def test_an_instructblip_says_that_it_is_shown_one_image(tmp_path, capsys):
    root = make_llava(tmp_path / "root", splits=True)
    words = (*LORA, "data=llava", f"data.root={root}", f"paths.outputs={tmp_path}")
    assert run("train", *TINY, *words) == 2
    said = capsys.readouterr().err
    assert "InstructBLIP is asked about one image" in said
    assert "of the index)" in said
    assert not vlm_runs(tmp_path)


def test_the_strategies_of_the_guide_are_kept(photos, tmp_path):
    words = ("experiment=instructblip_lora", "model.net.backbone=tiny:instructblip")
    small = ("trainer.val_check_interval=2", "callbacks.checkpoint.every_n_steps=2", "data.limit=12")
    more = ("scheduler.warmup_steps=1", "model.net.dtype=float32", "trainer.precision=32-true")
    made = trained(tmp_path, *words, "data=genimage", f"data.root={photos}", *small, *more)
    files = {one.name for one in (made / "checkpoints").glob("*.ckpt")}
    assert {"best.ckpt", "last.ckpt"} <= files
    assert sum(name.startswith("top-") for name in files) <= 2
    history = (made / "metrics.csv").read_text()
    assert history.count("\n") > 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((*LORA, "model.prompt=null"), "model.answers=['real', 'fake'] are answers without a question"),
        ((*LORA, "model.prompt=null", "model.answers=null"), "there is no question to ask"),
        ((*LORA, "model.answers=[real,'']"), "answer 2 of model.answers is empty"),
        ((*LORA, "model.answers=[real,Real]"), "are the same word"),
        ((*LORA, "model.answers=[a,b,c]"), "are 3: two"),
        ((*LORA, "model.answers=[true,false]"), "which is no text: put it in quotes"),
        (
            (*LORA, "model.answers=['an authentic photo','fake']", "model.net.max_target_token_length=2"),
            "would cut it",
        ),
        ((*LORA, "model.prompt='<image> or <image>?'"), "is asked about one image"),
        ((*LORA, "model.net.max_length=20"), "the answer would be cut off"),
        (
            ("model=instructblip_prompt", LORA[1], "model.prompt='Real?'"),
            "the word that is learnt",
        ),
        ((*LORA, "model.answer_score=best"), "unknown value model.answer_score=best"),
        ((*LORA, "train.monitor=val/exact_match", "train.mode=max"), "is not measured on images with labels"),
        ((*LORA, "model.net.target_modules=[qkv]"), "qkv"),
        ((*LORA, "model.net.vision=lora"), "adapters are for the language model"),
        ((*LORA, "model.net.quantization=nf4"), "bitsandbytes"),
        ((*LORA, "model.geometry.resize=none", "model.geometry.size=null"), "images of one size"),
    ],
)
def test_bad_input_is_said_before_anything_runs(photos, tmp_path, words, message, capsys):
    code = run("train", *TINY, "data=genimage", f"data.root={photos}", f"paths.outputs={tmp_path}", *words)
    said = capsys.readouterr().err
    assert (code, message in said) == (2, True), said
    assert not vlm_runs(tmp_path)


def test_check_says_what_is_asked_and_what_the_answers_mean(photos, tmp_path, capsys):
    words = (*TINY, *LORA, f"paths.outputs={tmp_path}")
    for data in (photos, tmp_path / "absent"):
        own = ("model.prompt='Real, or not?'", "model.answers=[yes,no]")
        assert run("check", *words, "data=genimage", f"data.root={data}", *own) == 0
        said = capsys.readouterr().out
        assert "Real, or not?" in said
        assert "real is “yes”, generated is “no”" in said
    assert run("check", "--json", *words, "data=genimage", f"data.root={photos}") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["question"] == "Is this image real or AI-generated? Answer with one word."
    assert plan["answers"] == {"real": "real", "generated": "fake"}
    # Of conversations the config's question is not asked.
    assert run("check", "--json", *words, "data=synthetic_vqa", "data.index.train=8") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["question"] == "none: the data bring theirs"
    assert "answers" not in plan


def test_export_of_another_task_says_what_it_is_for(tmp_path, photos, capsys):
    assert run("export") == 2
    assert "a run and a directory are needed" in capsys.readouterr().err
    assert run("export", "somewhere", str(tmp_path / "out"), "merge=yes") == 2
    assert "merge=yes: true" in capsys.readouterr().err


def test_a_killed_run_resumes_to_identical_weights(photos, tmp_path):
    words = (*LORA, "data=genimage", f"data.root={photos}", "model.net.dropout=0.1", "scheduler=constant")
    whole = trained(tmp_path / "whole", *words, "trainer.max_epochs=2")
    half = trained(tmp_path / "half", *words, "trainer.max_epochs=1")
    shutil.rmtree(half / "report")
    (half / "metrics.json").unlink()
    assert (
        run("train", *TINY, *words, f"paths.outputs={tmp_path / 'half'}", "trainer.max_epochs=2",
            f"resume={half}") == 0
    )  # fmt: skip
    weights = [read_checkpoint(one / "checkpoints" / "last.ckpt")["state_dict"] for one in (whole, half)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
