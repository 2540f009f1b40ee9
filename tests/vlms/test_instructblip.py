from __future__ import annotations

import pickle

import pytest
import torch
from peft import PeftModel
from tapetum.backbones import adapters, instructblip, tiny
from tapetum.backbones.generation import Generation
from tapetum.errors import ConfigError, DataError
from tapetum.vlms.instructblip import InstructBlip
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

SIZE = (48, 48)
QUESTIONS = {
    "Is this image real or fake? Answer with one word.": "real",
    "How many shapes are there?": "two purple zebras",
    "What colour is the circle left of the red square? It is large.": "blue",
}
CONVERSATIONS = [
    [{"role": "user", "content": f"<image>\n{question}"}, {"role": "assistant", "content": answer}]
    for question, answer in QUESTIONS.items()
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tiny.instructblip(tmp_path_factory.mktemp("instructblip") / "tiny"))


@pytest.fixture(scope="module")
def oracle(directory):
    return InstructBlipForConditionalGeneration.from_pretrained(directory).eval()


@pytest.fixture(scope="module")
def plain(directory):
    return made(directory, language="frozen").eval()


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def made(directory, **more):
    torch.manual_seed(0)  # of adapters
    return InstructBlip(**{"backbone": directory, "pretrained": True, "dropout": 0.0, **more})


def moved(net, amount=0.1):
    """What trains, away from where it started: a fresh adapter changes nothing."""
    generator = torch.Generator().manual_seed(0)
    for value in net.parameters():
        if value.requires_grad:
            value.data += torch.randn(value.shape, generator=generator) * amount
    return net


def loss_of(net, images, inputs):
    found = net.loss(net(images, inputs), inputs)
    return found.totals / found.counts


def fed(net, images, inputs):
    """Of one conversation, as transformers' model takes it."""
    names = ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask")
    return {"pixel_values": net.normalize(images), **{name: inputs[name] for name in names}}


# --- transformers' own model says the same ---


def test_logits_labels_and_loss_are_transformers_of_single_samples(plain, oracle, images):
    encode = plain.encode_fn(SIZE)
    inputs = encode(CONVERSATIONS)
    assert len(set(inputs["attention_mask"].sum(1).tolist())) == 3
    with torch.no_grad():
        visual = plain(images, inputs)
        logits, losses = plain.head(plain.states(visual, inputs)), loss_of(plain, images, inputs)
        for row, conversation in enumerate(CONVERSATIONS):
            one = encode([conversation])
            length = one["input_ids"].shape[1]
            assert one["attention_mask"].all()
            for name in ("input_ids", "labels"):
                assert torch.equal(inputs[name][row, :length], one[name][0])
            assert (inputs["labels"][row, length:] == -100).all()
            theirs = oracle(**fed(plain, images[row : row + 1], one), labels=one["labels"])
            assert torch.allclose(logits[row, :length], theirs.logits[0], atol=1e-5)
            assert losses[row] == pytest.approx(float(theirs.loss), abs=1e-5)


def test_prompts_have_the_ids_of_transformers_processor(directory, plain):
    processor = InstructBlipProcessor.from_pretrained(directory)
    encode = plain.encode_fn(SIZE)
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for question, conversation in zip(QUESTIONS, CONVERSATIONS, strict=True):
        theirs, ours = (
            processor(images=image, text=question, return_tensors="pt"),
            encode.prompts([conversation]),
        )
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
        assert torch.allclose(plain.normalize(image[None]), theirs["pixel_values"], atol=1e-5)


def test_only_the_answer_and_its_end_are_learnt(plain):
    encode = plain.encode_fn(SIZE)
    inputs = encode(CONVERSATIONS)
    for row, answer in zip(inputs["labels"], QUESTIONS.values(), strict=True):
        learnt = row[row != -100]
        assert encode.tokenizer.decode(learnt) == f" {answer}</s>"
    assert inputs["truncated"].tolist() == [0, 0, 0]
    assert encode.lengths(CONVERSATIONS).tolist() == inputs["attention_mask"].sum(1).tolist()


@pytest.mark.parametrize(
    "candidates",
    [
        ["real", "fake"],
        ["two red circles", "two blue", "two red squares"],
        ["red", "red circle", "black zebra"],
    ],
)
def test_scores_are_those_of_candidates_fed_one_by_one(plain, oracle, images, candidates):
    encode = plain.encode_fn(SIZE)
    prompts = encode.prompts(CONVERSATIONS)
    tokens = encode.candidates(CONVERSATIONS[0], candidates)
    with torch.no_grad():
        scores = plain.score(plain(images, prompts), prompts, tokens)
        for row, conversation in enumerate(CONVERSATIONS):
            one = encode.prompts([conversation])
            prompt = one["input_ids"]
            for column, answer in enumerate(tokens):
                whole = torch.cat([prompt, torch.tensor([answer])], dim=1)
                given = {**one, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
                logits = oracle(**fed(plain, images[row : row + 1], given)).logits[0].log_softmax(-1)
                expected = sum(
                    float(logits[prompt.shape[1] - 1 + place, token]) for place, token in enumerate(answer)
                )
                assert scores[row, column] == pytest.approx(expected, abs=1e-4)


def test_scores_do_not_change_under_autocast_by_more_than_its_rounding(plain, images):
    with torch.no_grad():
        expected = plain.score_answers(images, "Is this real?", ["yes", "no way", "no"])
        with torch.autocast("cpu", torch.bfloat16):
            found = plain.score_answers(images, "Is this real?", ["yes", "no way", "no"])
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=0.3)


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_answers_are_those_of_transformers_generate_alone(plain, oracle, images, strategy):
    encode = plain.encode_fn(SIZE)
    prompts = encode.prompts(CONVERSATIONS)
    written = plain.generate(
        plain(images, prompts), prompts, Generation(max_new_tokens=6, strategy=strategy, beams=3)
    )
    for row, conversation in enumerate(CONVERSATIONS):
        one = encode.prompts([conversation])
        theirs = oracle.generate(
            **fed(plain, images[row : row + 1], one),
            max_new_tokens=6,
            do_sample=False,
            num_beams=3 if strategy == "beam" else 1,
        )[0, one["input_ids"].shape[1] :]
        length = int(written.lengths[row])
        assert written.tokens[row, :length].tolist() == theirs[:length].tolist()
        assert written.texts[row] == encode.tokenizer.decode(theirs, skip_special_tokens=True).strip()


def test_drawn_answers_depend_on_the_image_and_the_seed_alone(plain, images):
    encode = plain.encode_fn(SIZE)
    prompts, drawn = encode.prompts(CONVERSATIONS), Generation(max_new_tokens=5, strategy="nucleus", seed=3)
    together = plain.generate(plain(images, prompts), prompts, drawn).texts
    for row, conversation in enumerate(CONVERSATIONS):
        one = encode.prompts([conversation])
        assert plain.generate(plain(images[row : row + 1], one), one, drawn).texts == [together[row]]
    other = Generation(max_new_tokens=5, strategy="nucleus", seed=4)
    assert plain.generate(plain(images, prompts), prompts, other).texts != together


def test_the_image_and_the_question_to_the_q_former_matter(plain, images):
    inputs = plain.encode_fn(SIZE).prompts([CONVERSATIONS[0]])
    with torch.no_grad():
        one, other = (
            plain.head(plain.states(plain(image[None], inputs), inputs))[0, -1] for image in images[:2]
        )
        asked = plain.encode_fn(SIZE).prompts([CONVERSATIONS[1]])
        differs = plain(images[:1], inputs) - plain(images[:1], asked)
    assert (one - other).abs().max() > 0.1
    assert differs.abs().max() > 0.1


# --- conversations ---


def test_turns_are_one_text_and_the_last_answer_alone_is_learnt(plain):
    encode = plain.encode_fn(SIZE)
    turns = [
        {"role": "system", "content": "Answer with one word."},
        {"role": "user", "content": "What is this? <image>"},
        {"role": "assistant", "content": "a circle"},
        {"role": "user", "content": "What colour is it?"},
        {"role": "assistant", "content": "red"},
    ]
    inputs = encode([turns])
    text = "Answer with one word. What is this? a circle What colour is it? red"
    ids = encode.tokenizer(text, add_special_tokens=False)["input_ids"]
    image = encode.tokenizer.convert_tokens_to_ids("<image>")
    assert inputs["input_ids"][0].tolist() == [
        *[image] * 8,
        encode.tokenizer.bos_token_id,
        *ids,
        encode.eos_id,
    ]
    assert (inputs["labels"][0] != -100).sum() == 2
    asked = encode.questions("What is this? What colour is it?")["input_ids"]
    assert inputs["qformer_input_ids"][0].tolist() == asked


def test_names_of_special_tokens_in_a_question_are_text(plain):
    encode = plain.encode_fn(SIZE)
    asked = [{"role": "user", "content": "<image>is </s> or <pad> red"}]
    ids = encode.prompts([asked])["input_ids"][0].tolist()
    assert encode.tokenizer.eos_token_id not in ids
    assert encode.tokenizer.pad_token_id not in ids
    assert encode.tokenizer.decode(ids[9:]) == "is </s> or <pad> red"


def test_an_answer_that_is_too_long_is_cut_and_still_ends(directory):
    encode = made(directory, max_target_token_length=3).encode_fn(SIZE)
    inputs = encode(CONVERSATIONS)
    assert inputs["truncated"].tolist() == [0, 1, 0]
    learnt = [row[row != -100].tolist() for row in inputs["labels"]]
    assert [len(one) for one in learnt] == [2, 3, 2]
    assert all(one[-1] == encode.eos_id for one in learnt)
    assert encode.lengths(CONVERSATIONS).tolist() == inputs["attention_mask"].sum(1).tolist()


def test_bad_conversations_are_refused_with_what_they_say(directory, plain):
    encode = plain.encode_fn(SIZE)
    answer = {"role": "assistant", "content": "red"}
    with pytest.raises(DataError, match="'What is it\\?' shows 0: put <image>"):
        encode([[{"role": "user", "content": "What is it?"}, answer]])
    with pytest.raises(DataError, match="shows 2: for several: model=qwen_vl_lora"):
        encode([[{"role": "user", "content": "<image><image>What is it?"}, answer]])
    with pytest.raises(DataError, match=r"the answer ' ' to .* has no token to learn from"):
        encode([[{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": " "}]])
    with pytest.raises(DataError, match="does not end with an answer"):
        encode([[{"role": "user", "content": "<image>What is it?"}]])
    with pytest.raises(DataError, match=r"takes 1.. tokens of the Q-Former, which has places for 128"):
        encode.prompts([[{"role": "user", "content": "<image>" + "what is it " * 50}]])
    with pytest.raises(DataError, match=r"takes 21 tokens and its answer 2, and there is room for 22"):
        made(directory, max_length=22).encode_fn(SIZE)(CONVERSATIONS[:1])
    made(directory, max_length=23).encode_fn(SIZE)(CONVERSATIONS[:1])
    with pytest.raises(ConfigError, match=r"answers 1 and 3 of model\.answers have the same tokens"):
        encode.candidates(CONVERSATIONS[0], ["real", "fake", " real"])
    with pytest.raises(DataError, match="2 images for 3 conversations"):
        plain(torch.zeros(2, 3, *SIZE, dtype=torch.uint8), encode(CONVERSATIONS))


def test_the_encoder_travels_to_workers_and_knows_its_size(plain):
    encode = plain.encode_fn(SIZE)
    again = pickle.loads(pickle.dumps(encode))(CONVERSATIONS)
    assert all(torch.equal(value, again[name]) for name, value in encode(CONVERSATIONS).items())
    with pytest.raises(ConfigError, match="takes images of 48x48 pixels, not 32x48"):
        plain.encode_fn((32, 48))


# --- what trains ---


def test_adapters_alone_have_gradients_and_frozen_parts_stay_in_eval(directory, images):
    net = moved(made(directory)).train()
    inputs = net.encode_fn(SIZE)(CONVERSATIONS)
    visual = net(images, inputs)
    assert not visual.requires_grad
    assert torch.equal(visual, net(images, inputs))  # the Q-Former has a dropout of 0.1
    net.loss(visual, inputs).total.backward()
    with_gradient = {name for name, value in net.named_parameters() if value.grad is not None}
    assert with_gradient == {name for name, value in net.named_parameters() if value.requires_grad}
    assert all("language_model" in name and "lora_" in name for name in with_gradient)
    assert net.trained_parts() == {
        "vision": 0,
        "Q-Former": 0,
        "projector": 0,
        "language model": 2 * 2 * 8 * (96 + 96),
    }
    assert not net.plain.qformer.training
    assert not net.plain.vision_model.training


@pytest.mark.parametrize(
    "parts",
    [
        {"language": "lora", "projector": "trained"},
        {"language": "frozen", "projector": "trained"},
        {"language": "frozen", "qformer": "trained"},
        {"language": "lora", "vision": "trained"},
        {"language": "trained", "vision": "trained", "qformer": "trained", "projector": "trained"},
    ],
)
def test_what_is_chosen_trains_and_nothing_else(directory, images, parts):
    net = made(directory, **parts).train()
    inputs = net.encode_fn(SIZE)(CONVERSATIONS)
    net.loss(net(images, inputs), inputs).total.backward()
    trains = {name: count > 0 for name, count in net.trained_parts().items()}
    assert trains == {
        "vision": parts.get("vision") == "trained",
        "Q-Former": parts.get("qformer") == "trained",
        "projector": parts.get("projector") == "trained",
        "language model": parts["language"] != "frozen",
    }
    unused = "word_embeddings" if parts.get("qformer") == "trained" else "none"
    for name, value in net.named_parameters():
        if value.requires_grad and unused not in name:
            assert value.grad is not None, name
    for name, part in (("vision", net.plain.vision_model), ("qformer", net.plain.qformer)):
        assert part.training == (parts.get(name) == "trained")


def test_recomputed_activations_change_no_gradient(directory, images):
    found = []
    for again in (False, True):
        net = moved(made(directory, gradient_checkpointing=again, projector="trained")).train()
        inputs = net.encode_fn(SIZE)(CONVERSATIONS)
        calls = []
        layer = net.text_model.model.layers[0].self_attn
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        visual = net(images, inputs)
        assert not visual.requires_grad
        net.loss(visual, inputs).total.backward()
        assert len(calls) == 1 + again
        found.append({name: value.grad for name, value in net.named_parameters() if value.requires_grad})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], atol=1e-5), name


def test_kept_features_say_what_live_images_say(directory, images):
    for parts, shape in (({}, (3, 8, 96)), ({"qformer": "trained"}, (3, 37, 96))):
        net = made(directory, **parts).eval()
        inputs = net.encode_fn(SIZE)(CONVERSATIONS)
        kept = net.frozen_features(images, inputs)
        assert kept.shape == shape
        assert not kept.requires_grad
        with torch.no_grad():
            assert torch.equal(net.forward_features(kept, inputs), net(images, inputs))


def test_the_key_of_kept_features_follows_the_frozen_weights(directory):
    one, other = made(directory), moved(made(directory))
    assert one.cache_key() == other.cache_key()  # adapters are not in it
    assert made(directory, qformer="trained").cache_key() != one.cache_key()
    for part in (
        other.plain.query_tokens,
        other.plain.qformer.encoder.layer[0].attention.attention.query.weight,
    ):
        before = other.cache_key()
        part.data += 1
        assert other.cache_key() != before
    with pytest.raises(ConfigError, match=r"model\.net\.vision=frozen, or data\.cache=decoded"):
        made(directory, vision="trained").cache_key()


# --- saving ---


@pytest.mark.parametrize("variant", ["lora", "dora", "rslora"])
def test_peft_itself_loads_adapters_and_projector_onto_transformers_model(
    directory, images, tmp_path, variant
):
    net = moved(made(directory, projector="trained", variant=variant)).eval()
    inputs = net.encode_fn(SIZE)(CONVERSATIONS[:1])
    described = net.peft_directory("net.")
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    adapters.write_directory(tmp_path, described, weights)
    base = InstructBlipForConditionalGeneration.from_pretrained(directory)
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        theirs = loaded(**fed(net, images[:1], inputs), labels=inputs["labels"])
        assert torch.allclose(theirs.logits, net.head(net.states(net(images[:1], inputs), inputs)), atol=1e-6)
        assert float(theirs.loss) == pytest.approx(float(loss_of(net, images[:1], inputs)), abs=1e-6)


def test_a_merged_model_is_transformers_own(directory, images, tmp_path):
    net = moved(made(directory, projector="trained")).eval()
    inputs = net.encode_fn(SIZE)(CONVERSATIONS[:1])
    with torch.no_grad():
        expected = loss_of(net, images[:1], inputs)
        net.merged().save_pretrained(tmp_path)
        assert torch.allclose(loss_of(net.train().eval(), images[:1], inputs), expected, atol=1e-5)
        net.save_beside(tmp_path)
        again = InstructBlipForConditionalGeneration.from_pretrained(tmp_path)
        processor = InstructBlipProcessor.from_pretrained(tmp_path)
        asked = processor(images=images[0], text=next(iter(QUESTIONS)), return_tensors="pt")
        assert again(**asked).logits.isfinite().all()
        theirs = again(**fed(net, images[:1], inputs), labels=inputs["labels"]).loss
    assert torch.allclose(theirs, expected[0], atol=1e-5)
    assert not any("lora" in name or "modules_to_save" in name for name in again.state_dict())


def test_checkpoints_hold_what_trains_and_peft_is_not_given_half_of_it(directory):
    net = made(directory, projector="trained")
    kept = set(net.state_dict()) - net.stored_elsewhere()
    assert kept == {name for name, value in net.named_parameters() if value.requires_grad}
    assert not made(directory, pretrained=False).stored_elsewhere()
    assert net.peft_directory()
    assert made(directory, vision="trained").peft_directory() == {}
    assert made(directory, language="trained").peft_directory() == {}
    assert len(made(directory).backbone_parameters()) == len(
        list(made(directory, language="frozen").parameters())
    )


# --- configs ---


def test_the_published_model_is_built_without_files_and_adapters_are_counted():
    with torch.device("meta"):
        net = InstructBlip(pretrained=True)
    assert net.trained_parts() == {
        "vision": 0,
        "Q-Former": 0,
        "projector": 0,
        "language model": 32 * 2 * 8 * (4096 + 4096),
    }
    assert net.input_spec.size == (224, 224)
    assert 7.8e9 < sum(value.numel() for value in net.parameters()) < 8.0e9
    shown = net(torch.zeros(2, 3, 224, 224, device="meta"), questions())
    assert shown.shape == (2, 32, 768)


def questions():
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    return {"qformer_input_ids": ids, "qformer_attention_mask": ids}


def test_half_precision_is_for_what_is_frozen(directory, images):
    net = made(directory, dtype="bfloat16", projector="trained").train()
    types = {value.dtype for value in net.parameters() if value.requires_grad}
    assert types == {torch.float32}
    assert net.plain.vision_model.dtype == net.plain.language_model.dtype == torch.bfloat16
    inputs = net.encode_fn(SIZE)(CONVERSATIONS)
    found = loss_of(net, images, inputs)
    found.sum().backward()
    with torch.no_grad():
        expected = loss_of(made(directory, language="frozen").eval(), images, inputs)
    assert torch.allclose(found, expected, atol=0.1)
    written = net.eval().generate(
        net(images, inputs), net.encode_fn(SIZE).prompts(CONVERSATIONS), Generation(2)
    )
    assert len(written.texts) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vision": "lora"}, r"model\.net\.vision=lora: adapters are for the language model"),
        ({"qformer": "lora"}, r"type model\.net\.qformer=frozen, or trained"),
        ({"projector": "half"}, r"unknown value model\.net\.projector=half: frozen, trained"),
        ({"dtype": "float16"}, r"unknown value model\.net\.dtype=float16: float32, bfloat16"),
        ({"dtype": "bfloat16", "language": "trained"}, r"type model\.net\.dtype=float32"),
        ({"quantization": "nf4", "language": "frozen"}, r"type model\.net\.language=lora"),
        (
            {"target_modules": ["qkv"]},
            r"'qkv', which is in the vision tower, and adapters are for the lang",
        ),
        ({"target_modules": ["query"]}, r"which is in the Q-Former"),
        ({"target_modules": ["c_attn"]}, r"end of no linear layer's name.*q_proj \(2\)"),
        ({"max_target_token_length": 1}, r"leaves no room for an answer"),
        ({"max_length": 513}, r"model\.net\.max_length=513 is out of range: .* 512 positions"),
        ({"pseudo_word": "[*]"}, r"type model\.net\.language=frozen, or model\.net\.pseudo_word=null"),
    ],
)
def test_arguments_that_do_not_go_together_say_what_to_type(directory, given, said):
    with pytest.raises(ConfigError, match=said), torch.device("meta"):
        made(directory, **given)


def test_room_for_an_answer_is_asked_for_before_anything_is_written(directory, plain, images):
    plain.check_generation(64)
    with pytest.raises(ConfigError, match=r"max_new_tokens=505 leaves no room for a question"):
        plain.check_generation(505)
    prompts = plain.encode_fn(SIZE).prompts(CONVERSATIONS)
    with pytest.raises(ConfigError, match="more than the 512 places"):
        plain.generate(plain(images, prompts), prompts, Generation(max_new_tokens=500))
    none = {name: value[:0] for name, value in prompts.items()}
    assert plain.generate(torch.zeros(0, 8, 96), none, Generation()).texts == []


# --- the learned word ---


def test_a_learned_word_has_as_many_parameters_as_published():
    with torch.device("meta"):
        net = InstructBlip(pretrained=True, language="frozen", pseudo_word="[*]")
    trained = sum(value.numel() for value in net.parameters() if value.requires_grad)
    assert trained == net.trained_parts()["word"] == 4096 + 768 == 4864


def test_a_learned_word_stands_where_the_question_has_it(directory, images):
    net = made(directory, language="frozen", pseudo_word="[*]").train()
    encode = net.encode_fn(SIZE)
    with_word = [[{"role": "user", "content": "<image>Is this real [*]? Answer"}, CONVERSATIONS[0][1]]]
    without = [[{"role": "user", "content": "<image>Is this real? Answer"}, CONVERSATIONS[0][1]]]
    plain = made(directory, language="frozen").encode_fn(SIZE)(without)
    found = encode(with_word)
    config = net.plain.config
    for name, new, place in (
        ("input_ids", config.text_config.vocab_size, 8 + 1 + 3),
        ("qformer_input_ids", config.qformer_config.vocab_size, 1 + 3),
    ):
        ids = found[name][0].tolist()
        assert ids[place] == new
        assert ids[:place] + ids[place + 1 :] == plain[name][0].tolist()
    with pytest.raises(DataError, match=r"is without '\[\*\]'.*model\.prompt='Is this photo real \[\*\]\?'"):
        encode(without)


def test_the_learned_word_alone_has_gradients_and_starts_as_the_mean_word(directory, images, oracle):
    net = made(directory, language="frozen", pseudo_word="[*]").train()
    asked = [[{"role": "user", "content": "<image>Is this real [*]?"}, CONVERSATIONS[0][1]]]
    inputs = net.encode_fn(SIZE)(asked)
    vectors = {name: value for name, value in net.named_parameters() if value.requires_grad}
    assert {value.shape for value in vectors.values()} == {(1, 96)}
    text = oracle.language_model.get_input_embeddings().weight
    own = net.plain.language_model.get_input_embeddings().vector
    assert torch.allclose(own[0], text.mean(0), atol=1e-6)
    kept = net.frozen_features(images[:1], inputs)  # behind the vision tower: the Q-Former reads the word
    assert kept.shape == (1, 37, 96)
    before = loss_of(net, images[:1], inputs)
    assert torch.allclose(net.forward_features(kept, inputs), net(images[:1], inputs))
    before.sum().backward()
    assert all(value.grad.abs().max() > 0 for value in vectors.values())
    for value in vectors.values():
        value.data -= 0.01 * value.grad / value.grad.norm()
    assert loss_of(net, images[:1], inputs) < before
    assert set(net.state_dict()) - net.stored_elsewhere() == set(vectors)
    assert not net.plain.qformer.training
    prompts = net.encode_fn(SIZE).prompts(asked)
    assert net.eval().generate(net(images[:1], prompts), prompts, Generation(max_new_tokens=2)).texts


# --- tokenizers ---


def test_a_tokenizer_without_padding_or_with_a_name_for_images_works(directory, tmp_path, images, plain):
    import json
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    file = copy / "tokenizer_config.json"
    said = json.loads(file.read_text())
    del said["pad_token"]
    said["extra_special_tokens"] = {"image_token": "<image>"}
    file.write_text(json.dumps(said))
    net = made(str(copy), language="frozen").eval()
    encode = net.encode_fn(SIZE)
    assert encode.tokenizer.pad_token is None
    assert encode.tokenizer.image_token == "<image>"
    assert encode.pad_id == encode.eos_id
    inputs = encode(CONVERSATIONS)
    with torch.no_grad():
        expected = loss_of(plain, images, plain.encode_fn(SIZE)(CONVERSATIONS))
        assert torch.allclose(loss_of(net, images, inputs), expected, atol=1e-6)
    del said["eos_token"]
    file.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="has no eos_token, so that no answer could end"):
        made(str(copy))
    assert instructblip.read_config(str(copy)).num_query_tokens == 8


def test_random_weights_see_the_image_and_their_queries_differ(directory, images):
    net = made(directory, language="trained", pretrained=False).eval()
    inputs = net.encode_fn(SIZE).prompts([CONVERSATIONS[0]])
    with torch.no_grad():
        one, other = (net(image[None], inputs)[0] for image in images[:2])
    assert (one - other).abs().max() > 0.1
    assert (one[0] - one[1]).abs().max() > 0.1


def test_a_learned_word_has_no_place_in_transformers_model(directory):
    net = made(directory, language="frozen", pseudo_word="[*]")
    with pytest.raises(ConfigError, match=r"model\.net\.pseudo_word=\[\*\] is no word of transformers'"):
        net.merged()
