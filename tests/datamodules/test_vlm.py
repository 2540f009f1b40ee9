"""Batches of conversations: whose images, which labels, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tapetum.datamodules.conversations import Question
from tapetum.errors import ConfigError, DataError
from tapetum.indexes import llava
from tapetum.indexes.build import build

from modules.vlm_parts import ASKED, answerer, conversations, data_for, labelled, network


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("vqa"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return labelled(tmp_path_factory.mktemp("folder") / "root")


def test_a_batch_has_the_question_and_the_answer_of_each_row(asked, tmp_path):
    module = answerer()
    batch = next(iter(data_for(asked, module, tmp_path).train_dataloader()))
    messages = asked.table.column("messages")
    assert batch["texts"] == [messages[int(row)].as_py()[-1]["content"] for row in batch["index"]]
    labels = batch["inputs"]["labels"]
    for row, text in zip(labels, batch["texts"], strict=True):
        assert module.encode_fn().decode(row[row >= 0][None])[0] == text
    assert batch["image_counts"].tolist() == [1] * len(batch["index"])
    assert "prompts" not in batch
    assert "labels" not in batch


def test_labels_become_answers_and_stay_labels(photos, tmp_path):
    module = answerer(**ASKED)
    data = data_for(photos, module, tmp_path)
    for batch in data.eval_dataloader("val"):
        assert batch["texts"] == [ASKED["answers"][int(label)] for label in batch["labels"]]
        assert batch["prompts"]["input_ids"].shape[1] < batch["inputs"]["input_ids"].shape[1]
        assert len(batch["generators"]) == len(batch["index"])


def make_pairs(root, images=((0,), (1, 2), (3,), (2, 3), (0, 1), (1,))):
    """Conversations about one image or several, every image of one grey."""
    root.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(root / f"{number}.png")
    rows = [
        {
            "id": str(row),
            "image": [f"{one}.png" for one in shown],
            "conversations": [
                {"from": "human", "value": "<image>\n" * len(shown) + "Which is brighter?"},
                {"from": "gpt", "value": "the last"},
            ],
        }
        for row, shown in enumerate(images)
    ]
    (root / "train.json").write_text(json.dumps(rows))
    return build(
        llava.index, root=root, val_fraction=0.0, seed=0, cache=None, required=("messages|label",),
        name="llava",
    )  # fmt: skip


def test_the_images_of_a_conversation_come_in_the_order_of_their_tags(tmp_path):
    index = make_pairs(tmp_path / "root")
    module = answerer(network())
    data = data_for(index, module, tmp_path, encode=None)
    rows = np.arange(len(index))
    (batch,) = data_for(index, module, tmp_path, encode=None, eval_batch_size=len(index)).ordered(rows)
    greys = [int(image.float().mean().round()) // 40 for image in batch["images"]]
    expected = []
    for row in rows.tolist():
        first = index.location(row)[1]
        more = index.table.column("further_images")[row].as_py() or []
        expected += [int(path[0]) for path in (first, *more)]
    assert greys == expected
    assert batch["image_counts"].sum() == len(greys)
    assert len(data.index) == len(rows)


def test_a_conversation_with_an_unreadable_image_is_left_out_whole(tmp_path):
    index = make_pairs(tmp_path / "root")
    (tmp_path / "root" / "3.png").write_bytes(b"no picture")
    module = answerer(network())
    rows = np.arange(len(index))
    with pytest.raises(DataError, match=r"3\.png"):
        list(data_for(index, module, tmp_path, encode=None).ordered(rows))
    data = data_for(index, module, tmp_path, encode=None, on_bad_image="skip", eval_batch_size=9)
    (batch,) = data.ordered(rows)
    assert len(data.bad) == 2
    assert len(batch["images"]) == int(batch["image_counts"].sum())


@pytest.mark.parametrize("cache", ["decoded", "features"])
def test_caches_of_one_image_a_row_refuse_several(tmp_path, cache):
    index = make_pairs(tmp_path / "root")
    module = answerer(network())
    with pytest.raises(ConfigError, match="conversations show several"):
        data_for(index, module, tmp_path, encode=None, cache=cache, network=module.net)


def test_kept_features_are_those_of_the_row_s_own_question(asked, tmp_path):
    module = answerer(network()).eval()
    data = data_for(asked, module, tmp_path, cache="features", network=module.net)
    live = data_for(asked, module, tmp_path)
    pairs = zip(data.eval_dataloader("test"), live.eval_dataloader("test"), strict=True)
    with torch.no_grad():
        for kept, seen in pairs:
            losses = [module.net.loss(module.outputs(one), one["inputs"]).totals for one in (kept, seen)]
            assert torch.allclose(*losses, atol=1e-5)


def test_another_question_has_other_features(photos, tmp_path):
    keys = []
    for prompt in ("Is this image real?", "Is this a photo?"):
        module = answerer(network(), prompt=prompt, answers=["real", "fake"])
        keys.append(data_for(photos, module, tmp_path, cache="features", network=module.net).feature_key())
    assert keys[0] != keys[1]


def test_classes_are_drawn_evenly_on_request(photos, tmp_path):
    module = answerer(**ASKED)
    data = data_for(photos, module, tmp_path, sampler="class_balanced", batch_size=2)
    assert len(list(data.train_batches(photos.rows("train"), repeat=False)))


def test_conversations_have_no_classes_to_draw(asked, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.sampler=class_balanced draws classes"):
        data_for(asked, answerer(), tmp_path, sampler="class_balanced")


def test_labels_without_a_question_say_what_to_type(photos, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.prompt="):
        data_for(photos, answerer(), tmp_path)


@pytest.mark.parametrize(
    ("prompt", "answers", "message"),
    [
        (" ", ("real", "fake"), "model.prompt is empty"),
        ("Real?", ("real",), "are 1: two"),
        ("Real?", ("real", " "), "answer 2 of model.answers is empty"),
        ("Real?", ("real", "Real."), "are the same word"),
    ],
)
def test_a_question_that_can_t_be_judged_is_refused(prompt, answers, message):
    with pytest.raises(ConfigError, match=message):
        Question(prompt, answers)


def test_conversations_of_one_length_share_a_batch(asked, tmp_path):
    module = answerer()
    data = data_for(asked, module, tmp_path, length_buckets=True)
    lengths = dict(
        zip(
            asked.rows("train").tolist(),
            module.encode_fn().lengths(
                [asked.table.column("messages")[int(row)].as_py() for row in asked.rows("train")]
            ).tolist(),
            strict=True,
        )
    )  # fmt: skip
    spread = []
    for buckets in (True, False):
        data = data_for(asked, module, tmp_path, length_buckets=buckets)
        batches = list(data.train_batches(asked.rows("train"), repeat=False))
        found = [[lengths[row] for _, row in batch] for batch in batches]
        spread.append(sum(max(one) - min(one) for one in found))
    assert spread[0] < spread[1]
