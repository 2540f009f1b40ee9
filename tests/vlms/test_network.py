from __future__ import annotations

import pytest
import torch
from tapetum.backbones import tiny
from tapetum.vlms.instructblip import InstructBlip

SIZE = (48, 48)
LONG = ["a real photo", "a real drawing", "a fake", "a real photo of two red circles", "no"]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    place = tiny.instructblip(tmp_path_factory.mktemp("tiny") / "tiny")
    return InstructBlip(backbone=str(place), pretrained=True, language="frozen").eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def asked(*answers):
    questions = ["<image>Is this real?", "<image>How many red circles are there in this image?"]
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in zip(questions, answers, strict=True)
    ]


def test_a_score_is_minus_the_loss_of_the_answer_with_its_end(net, images):
    encode = net.encode_fn(SIZE)
    prompts = encode.prompts(asked("", ""))
    candidates = encode.candidates(asked("", "")[0], LONG)
    assert all(one[-1] == encode.eos_id for one in candidates)  # one is the beginning of another
    with torch.no_grad():
        scores = net.score(net(images, prompts), prompts, candidates)
        for column, answer in enumerate(LONG):
            inputs = encode(asked(answer, answer))
            losses = net.loss(net(images, inputs), inputs).totals
            assert torch.allclose(scores[:, column], -losses, atol=1e-4)


def test_the_first_answers_of_one_token_take_no_more_than_the_prompt(net, images, monkeypatch):
    encode, fed = net.encode_fn(SIZE), []
    prompts = encode.prompts(asked("", ""))
    states = type(net).states

    def watched(self, visual, inputs, **more):
        fed.append((inputs["input_ids"].shape[1], sorted(more)))
        return states(self, visual, inputs, **more)

    monkeypatch.setattr(type(net), "states", watched)
    with torch.no_grad():
        visual = net(images, prompts)
        both = net.score(visual, prompts, encode.candidates(asked("", "")[0], ["real", "fake"]))
        assert fed == [(prompts["input_ids"].shape[1], [])]
        more = net.score(visual, prompts, [[5], [5, 6], [7, 8, 9]])
    assert fed[1] == (prompts["input_ids"].shape[1] + 3, ["mask", "positions"])
    assert both.shape == (2, 2)
    assert (more[:, 1] < more[:, 0]).all()  # a longer text is a part of what may follow a shorter one


def test_one_question_about_many_images_is_scored_as_each_alone(net, images):
    answers = ["real", "fake", "a real photo"]
    with torch.no_grad():
        together = net.score_answers(images, "Is this real?", answers)
        alone = torch.cat([net.score_answers(image[None], "Is this real?", answers) for image in images])
    assert together.dtype == torch.float32
    assert torch.allclose(together, alone, atol=1e-4)


def test_no_label_no_loss_and_no_logits_for_what_is_not_an_answer(net, images):
    encode = net.encode_fn(SIZE)
    inputs = encode(asked("real", "two red circles"))
    seen = []
    handle = net.head.register_forward_hook(lambda _, fed, out: seen.append(len(fed[0])))
    with torch.no_grad():
        found = net.loss(net(images, inputs), inputs)
    handle.remove()
    assert found.counts.tolist() == [2, 4]
    assert sum(seen) == 6


@pytest.mark.parametrize("candidates", [[[5], [6]], [[5, 6], [7, 8, 9]]])
def test_the_last_layer_works_where_logits_are_asked_and_is_whole_afterwards(net, images, candidates):
    encode, fed = net.encode_fn(SIZE), []
    inputs, prompts = encode(asked("real", "fake")), encode.prompts(asked("", ""))
    last = net.text_model.model.layers[-1]
    with torch.no_grad():
        before = net.states(net(images, inputs), inputs)
        handle = last.mlp.down_proj.register_forward_pre_hook(lambda _, given: fed.append(given[0].shape[:2]))
        net.score(net(images, prompts), prompts, candidates)
        handle.remove()
        # The prompt's last place, and those of each candidate's tokens but its last.
        assert fed == [(2, 1 + sum(len(one) - 1 for one in candidates))]
        assert torch.equal(net.states(net(images, inputs), inputs), before)


def test_a_score_that_fails_leaves_the_last_layer_whole(net, images):
    encode = net.encode_fn(SIZE)
    inputs, prompts = encode(asked("real", "fake")), encode.prompts(asked("", ""))
    with torch.no_grad():
        visual = net(images, inputs)
        before = net.states(visual, inputs)
        with pytest.raises(RuntimeError):
            net.score(visual[:1], prompts, [[5], [6]])
        assert torch.equal(net.states(visual, inputs), before)
