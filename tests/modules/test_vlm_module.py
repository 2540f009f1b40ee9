"""The module of answers: the loss a token however batches are cut, judged by likelihood and as written."""

import pytest
import torch
from tapetum.errors import ConfigError
from tapetum.metrics.answers import answer_metrics
from tapetum.metrics.binary import binary_metrics
from tapetum.modules.vlm import VLMModule, written_metrics

from modules.retrieval_parts import trainer_for
from modules.vlm_parts import ASKED, answerer, conversations, data_for, labelled, network


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("vqa"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("folder") / "root")


def validated(index, module, tmp_path):
    trainer = trainer_for(tmp_path)
    data = data_for(index, module, tmp_path)
    trainer.validate(module, data, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}, data


def alone(module, data, split="val"):
    """Each row of a split in a batch of its own: (batch, visual features)."""
    module.eval()
    for row in data.index.rows(split).tolist():
        (batch,) = data.ordered(torch.tensor([row]).numpy())
        with torch.no_grad():
            yield batch, module.outputs(batch)


def test_validation_loss_is_the_mean_over_all_answer_tokens(asked, tmp_path):
    module = answerer(optimizer=None, generate_every_n_epochs=0)
    figures, data = validated(asked, module, tmp_path)
    totals, counts = 0.0, 0
    with torch.no_grad():
        for batch, visual in alone(module, data):
            found = module.net.loss(visual, batch["inputs"])
            totals, counts = totals + float(found.total), counts + int(found.count)
    assert figures["val/loss"] == pytest.approx(totals / counts, rel=1e-5)


def test_written_answers_are_scored_against_their_own(asked, tmp_path):
    module = answerer(optimizer=None, generate_images=None)
    figures, data = validated(asked, module, tmp_path)
    texts, right = [], []
    for batch, visual in alone(module, data):
        texts += module.net.generate(visual, batch["prompts"], module.generation).texts
        right += batch["texts"]
    for name, value in answer_metrics(texts, right).items():
        assert figures[f"val/{name}"] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("score", ["mean", "sum"])
def test_labels_are_judged_by_the_likelihood_of_both_answers(photos, tmp_path, score):
    answers = {"prompt": "Is this image real?", "answers": ["an authentic photo", "an artificial picture"]}
    module = answerer(optimizer=None, answer_score=score, **answers)
    figures, data = validated(photos, module, tmp_path)
    logits, labels = [], []
    for batch, visual in alone(module, data):
        scores = []
        for answer in answers["answers"]:
            said = [*module.question.asked(), {"role": "assistant", "content": answer}]
            inputs = module.encode_fn()([said])
            end = inputs["input_ids"][0, -1]
            inputs["labels"] = inputs["labels"].masked_fill(inputs["labels"] == end, -100)  # words alone
            with torch.no_grad():
                found = module.net.loss(visual, inputs)
            scores.append(-float(found.total) / (int(found.count) if score == "mean" else 1))
        logits.append(scores[1] - scores[0])
        labels += batch["labels"].tolist()
    expected = binary_metrics(torch.tensor(logits), torch.tensor(labels))
    for name in ("accuracy", "auroc", "ap", "f1"):
        assert figures[f"val/{name}"] == pytest.approx(expected[name], abs=1e-6, nan_ok=True), name


def test_accumulated_batches_are_one_large_batch_although_answers_differ_in_length(asked, tmp_path):
    weights = []
    for batch_size, accumulated in ((4, 1), (2, 2)):
        module = answerer(network())
        trainer = trainer_for(
            tmp_path, max_epochs=1, limit_val_batches=0, accumulate_grad_batches=accumulated,
            limit_train_batches=4 * accumulated,
        )  # fmt: skip
        data = data_for(asked, module, tmp_path, batch_size=batch_size, sampler=None)
        trainer.fit(module, data)
        weights.append({name: one for name, one in module.net.named_parameters() if one.requires_grad})
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-5), name


def test_what_is_neither_answer_is_wrong_and_counted():
    found = written_metrics(
        ["real", "Fake.", "perhaps", ""], ["real", "real", "fake", "real"], ["real", "fake"]
    )
    assert found == {"written_accuracy": 0.25, "invalid": 0.5}


def test_a_frozen_tower_stays_in_eval_while_the_adapters_train(asked, tmp_path):
    module = answerer()
    trainer = trainer_for(tmp_path, max_epochs=1, limit_train_batches=2, limit_val_batches=1)
    trainer.fit(module, data_for(asked, module, tmp_path))
    module.train()
    plain = module.net.plain
    assert not any(one.training for one in plain.vision_model.modules())
    assert not any(one.training for one in plain.qformer.modules())
    assert all(one.grad is None for one in plain.vision_model.parameters())


def test_geometry_that_leaves_sizes_open_is_refused():
    with pytest.raises(ConfigError, match="images of one size"):
        VLMModule(network(), geometry={"size": None, "resize": "none"}, **ASKED).encode_fn()
