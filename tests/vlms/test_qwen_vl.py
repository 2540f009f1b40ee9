from __future__ import annotations

from functools import partial

import pytest
import torch
import transformers
from peft import PeftModel
from tapetum.backbones import adapters, qwen_vl_models, tiny
from tapetum.backbones.generation import Generation
from tapetum.errors import CheckpointError, ConfigError, DataError
from tapetum.vlms.qwen_vl import QwenVL

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ONE = [
    {"role": "user", "content": "<image>\nWhat colour is the circle?"},
    {"role": "assistant", "content": "red"},
]
TWO = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "<image>Is this larger than <image>?"},
    {"role": "assistant", "content": "yes, it is"},
    {"role": "user", "content": "Is it real?"},
    {"role": "assistant", "content": "no"},
]
SHORT = [{"role": "user", "content": "<image>\nreal?"}, {"role": "assistant", "content": "a photo of a cat"}]
ALL = [ONE, TWO, SHORT]
IMAGES = {0: [0], 1: [1, 2], 2: [3]}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("qwen")
    return {name: str(tiny.qwen_vl(root / name, model_type=name)) for name in TYPES}


@pytest.fixture(scope="module")
def originals(directories):
    """transformers' own model and processor of each family."""
    load = transformers.AutoModelForImageTextToText.from_pretrained
    return {
        name: (load(place).eval(), transformers.AutoProcessor.from_pretrained(place))
        for name, place in directories.items()
    }


@pytest.fixture(scope="module")
def plain(directories):
    """One of each family with nothing that trains."""
    return {
        name: QwenVL(backbone=place, pretrained=True, language="frozen").eval()
        for name, place in directories.items()
    }


def images_for(net, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    step = 2 * net.plain.config.vision_config.patch_size
    return torch.randint(0, 256, (count, 3, 2 * step, 4 * step), dtype=torch.uint8, generator=generator)


def encoded(net, images, conversations):
    return net.encode_fn(tuple(images.shape[-2:]))(conversations)


def asked(net, images, conversations):
    return net.encode_fn(tuple(images.shape[-2:])).prompts(conversations)


def processed(original, images, text):
    processor = original[1]
    return processor(text=[text], images=list(images), return_tensors="pt")


def prompt_of(original, conversation):
    messages = []
    for message in conversation[:-1]:
        texts = message["content"].replace("<image>\n", "<image>").split("<image>")
        parts = [{"type": "text", "text": texts[0]}]
        for text in texts[1:]:
            parts += [{"type": "image"}, {"type": "text", "text": text}]
        messages.append({"role": message["role"], "content": parts})
    return original[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def noted(run, name, *_):
    run.append(name)


def adapted(directory, **arguments):
    """With adapters that do something."""
    net = QwenVL(backbone=directory, pretrained=True, dropout=0.0, **arguments)
    generator = torch.Generator().manual_seed(1)
    for name, value in net.named_parameters():
        if "lora_" in name:
            value.data.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return net


# --- what transformers computes ---


@pytest.mark.parametrize("model_type", TYPES)
def test_loss_and_logits_equal_those_of_single_samples_whatever_the_batch(plain, originals, model_type):
    net, original = plain[model_type], originals[model_type]
    images = images_for(net)
    inputs = encoded(net, images, ALL)
    with torch.no_grad():
        visual = net(images, inputs)
        found = net.loss(visual, inputs)
        logits = net.head(net.states(visual, inputs))
        for number, conversation in enumerate(ALL):
            text = prompt_of(original, conversation) + f"{conversation[-1]['content']}<|im_end|>\n"
            sample = processed(original, images[IMAGES[number]], text)
            length = sample["input_ids"].shape[1]
            labels = inputs["labels"][number, :length]
            expected = original[0](**sample, labels=labels[None])
            torch.testing.assert_close(logits[number, :length], expected.logits[0], rtol=0, atol=1e-5)
            count = int((labels[1:] != -100).sum())
            assert found.counts[number] == count
            torch.testing.assert_close(found.totals[number] / count, expected.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", TYPES)
def test_positions_are_those_of_transformers(plain, originals, model_type):
    net, (model, _) = plain[model_type], originals[model_type]
    images = images_for(net)
    inputs = encoded(net, images, ALL)
    grid = torch.tensor([[3, 5], [7, 2], [1, 4], [2, 2]])  # of images of different sizes
    rows = []
    for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        rows.append(row[(row != model.config.image_token_id) & mask.bool()].tolist())
    start, image = model.config.vision_start_token_id, model.config.image_token_id
    sizes, filled = iter(grid.prod(1).tolist()), []
    for row in rows:
        filled.append([t for one in row for t in ([one, *[image] * next(sizes)] if one == start else [one])])
    width = max(map(len, filled))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in filled])
    mask = torch.tensor([[*[1] * len(row), *[0] * (width - len(row))] for row in filled])
    thw = torch.cat([torch.ones(4, 1, dtype=torch.long), grid * 2], dim=1)
    shown = ids == image
    expected, _ = model.model.get_rope_index(ids, shown.int(), image_grid_thw=thw, attention_mask=mask)
    found = qwen_vl_models.rope_positions(shown, mask, grid)
    assert torch.equal(found[:, mask.bool()], expected[:, mask.bool()])


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize(
    "answers", [["real", "fake"], ["real photo", "real image", "fake"], ["real", "real photo"]]
)
def test_scores_are_the_log_likelihoods_of_each_answer_alone(plain, originals, model_type, answers):
    net, original = plain[model_type], originals[model_type]
    images = images_for(net)
    encoder = net.encode_fn(tuple(images.shape[-2:]))
    prompts, candidates = encoder.prompts(ALL), encoder.candidates(ONE, answers)
    with torch.no_grad():
        found = net.score(net(images, prompts), prompts, candidates)
    assert found.shape == (3, len(answers))
    for number, conversation in enumerate(ALL):
        sample = processed(original, images[IMAGES[number]], prompt_of(original, conversation))
        length = sample["input_ids"].shape[1]
        for place, tokens in enumerate(candidates):
            fed = {**sample, "input_ids": torch.cat([sample["input_ids"], torch.tensor([tokens])], 1)}
            fed["attention_mask"] = torch.ones_like(fed["input_ids"])
            fed["mm_token_type_ids"] = (fed["input_ids"] == original[0].config.image_token_id).int()
            with torch.no_grad():
                each = original[0](**fed).logits[0].log_softmax(-1)
            expected = sum(each[length - 1 + step, token] for step, token in enumerate(tokens))
            torch.testing.assert_close(found[number, place], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_answers_are_those_that_transformers_writes_for_single_samples(
    plain, originals, model_type, strategy
):
    net, original = plain[model_type], originals[model_type]
    images = images_for(net)
    prompts = asked(net, images, ALL)
    generation = Generation(max_new_tokens=6, strategy=strategy, beams=3)
    with torch.no_grad():
        visual = net(images, prompts)
    found = net.generate(visual, prompts, generation)
    assert net.plain.model.rope_deltas is None
    settings = transformers.GenerationConfig(
        max_new_tokens=6,
        num_beams=3 if strategy == "beam" else 1,
        eos_token_id=original[1].tokenizer.eos_token_id,
        pad_token_id=original[1].tokenizer.pad_token_id,
    )
    for number, conversation in enumerate(ALL):
        sample = processed(original, images[IMAGES[number]], prompt_of(original, conversation))
        tokens = original[0].generate(**sample, generation_config=settings)[0, sample["input_ids"].shape[1] :]
        length = int(found.lengths[number])
        assert found.tokens[number, :length].tolist() == tokens.tolist()
        assert found.texts[number] == original[1].tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_drawn_depends_on_its_own_prompt_and_not_on_its_words(plain, model_type):
    net = plain[model_type]
    images = images_for(net)
    generation = Generation(max_new_tokens=5, strategy="nucleus", repetition_penalty=1.5)
    prompts = asked(net, images, ALL)
    with torch.no_grad():
        visual = net(images, prompts)
    whole = net.generate(visual, prompts, generation).texts
    for number, conversation in enumerate(ALL):
        alone = net.generate(visual[IMAGES[number]], asked(net, images, [conversation]), generation)
        assert alone.texts == [whole[number]]
    # A penalty for what was said leaves the first token alone, whose words are all in the prompt.
    first = Generation(max_new_tokens=1, repetition_penalty=50.0)
    penalised = net.generate(visual, prompts, first).tokens
    assert torch.equal(penalised, net.generate(visual, prompts, Generation(max_new_tokens=1)).tokens)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_step_after_writing_is_the_step_before_it(plain, model_type):
    net = plain[model_type]
    images = images_for(net)
    inputs, prompts = encoded(net, images, ALL), asked(net, images, ALL)
    with torch.no_grad():
        visual = net(images, inputs)
        before = net.loss(visual, inputs).totals
        net.generate(visual, prompts, Generation(max_new_tokens=3))
        assert torch.equal(net.loss(visual, inputs).totals, before)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_image_matters(plain, model_type):
    net = plain[model_type]
    images = images_for(net, count=1)
    inputs = encoded(net, images, [ONE])
    with torch.no_grad():
        losses = [net.loss(net(images_for(net, 1, seed), inputs), inputs).total for seed in (0, 1)]
        answers = net.score_answers(torch.cat([images, images_for(net, 1, 1)]), "real?", ["yes", "no"])
    assert abs(losses[0] - losses[1]) > 1e-3
    assert (answers[0] - answers[1]).abs().max() > 1e-3


# --- what is frozen, and what trains ---


@pytest.mark.parametrize("model_type", TYPES)
def test_kept_features_are_what_the_tower_makes_anew(plain, directories, model_type):
    net = adapted(directories[model_type]).train()
    images = images_for(net)
    inputs = encoded(net, images, ALL)
    kept = net.frozen_features(images, inputs)
    assert not kept.requires_grad
    width = net.plain.config.text_config.hidden_size
    assert kept.shape == (4, 8, width * (2 if model_type == "qwen3_vl" else 1))
    cached = net.loss(net.forward_features(kept, inputs), inputs).totals
    assert torch.equal(cached, net.loss(net(images, inputs), inputs).totals)
    assert net.cache_key() == plain[model_type].cache_key()  # adapters are above it


def test_the_key_of_kept_features_knows_their_weights(directories, plain):
    assert len({net.cache_key() for net in plain.values()}) == 3
    other = QwenVL(backbone=directories["qwen2_vl"], pretrained=False, language="frozen")
    assert other.cache_key() != plain["qwen2_vl"].cache_key()


@pytest.mark.parametrize("model_type", TYPES)
def test_adapters_train_alone_and_recomputing_changes_no_gradient(directories, model_type):
    gradients = []
    for recompute in (False, True):
        net = adapted(directories[model_type], gradient_checkpointing=recompute).train()
        assert not any(module.training for module in net.plain.model.visual.modules())
        run: list[str] = []
        layers = {"language": net.text_model.layers[0], "vision": net.plain.model.visual.blocks[0]}
        for name, layer in layers.items():
            layer.mlp.register_forward_pre_hook(partial(noted, run, name))
        images = images_for(net)
        inputs = encoded(net, images, ALL)
        visual = net(images, inputs)
        assert not visual.requires_grad
        net.loss(visual, inputs).total.backward()
        assert sorted(run) == ["language", "language", "vision"][0 if recompute else 1 :]
        named = {name: value.grad for name, value in net.named_parameters() if value.grad is not None}
        assert named
        assert all(".language_model." in name and "lora_" in name for name in named)
        assert named.keys() == {name for name, value in net.named_parameters() if value.requires_grad}
        assert set(net.trained_parts().items()) >= {("vision", 0), ("projector", 0)}
        assert net.trained_parts()["language model"] == sum(value.numel() for value in named.values())
        gradients.append(named)
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("language", ["frozen", "lora", "trained"])
@pytest.mark.parametrize(("vision", "projector"), [("frozen", "trained"), ("trained", "frozen")])
def test_gradients_reach_the_parts_that_train_and_no_other(
    directories, model_type, vision, projector, language
):
    net = QwenVL(
        backbone=directories[model_type],
        pretrained=True,
        vision=vision,
        projector=projector,
        language=language,
    ).train()
    images = images_for(net)
    inputs = encoded(net, images, ALL)
    net.loss(net(images, inputs), inputs).total.backward()
    reached = {name for name, value in net.named_parameters() if value.grad is not None}
    merges = {name for name, _ in net.named_parameters() if "merger" in name}
    tower = {name for name, _ in net.named_parameters() if ".visual." in name} - merges
    assert bool(reached & merges) == (projector == "trained")
    assert bool(reached & tower) == (vision == "trained")
    assert bool({name for name in reached if ".visual." not in name}) == (language != "frozen")
    counts = net.trained_parts()
    assert (counts["vision"] > 0, counts["projector"] > 0) == (vision == "trained", projector == "trained")
    assert (counts["language model"] > 0) == (language != "frozen")
    # Everything that trains is in a checkpoint, and nothing else.
    state = net.state_dict(keep_vars=True)
    assert state.keys() - net.stored_elsewhere() == {n for n, value in state.items() if value.requires_grad}
    with pytest.raises(ConfigError, match=r"model\.net\.projector=frozen, or data\.cache=decoded"):
        net.cache_key()


@pytest.mark.parametrize("model_type", TYPES)
@pytest.mark.parametrize("projector", ["frozen", "trained"])
def test_peft_itself_loads_the_adapters(directories, originals, tmp_path, model_type, projector):
    net = adapted(directories[model_type], projector=projector)
    if projector == "trained":
        for name, value in net.named_parameters():
            if "merger" in name and value.requires_grad:
                value.data += 0.1
    net.eval()
    weights = {f"net.{name}": value for name, value in net.state_dict().items()}
    adapters.write_directory(tmp_path, net.peft_directory("net."), weights)
    base = transformers.AutoModelForImageTextToText.from_pretrained(directories[model_type])
    theirs = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    original = originals[model_type]
    sample = processed(original, images_for(net, 1), prompt_of(original, ONE) + "red<|im_end|>\n")
    with torch.no_grad():
        expected, untouched = theirs(**sample).logits, original[0](**sample).logits
        torch.testing.assert_close(net.plain(**sample).logits, expected, rtol=0, atol=1e-6)
    assert (expected - untouched).abs().max() > 1e-3


def test_files_beside_an_adapter_make_a_processor(directories, tmp_path):
    net = adapted(directories["qwen3_vl"])
    copies = net.save_beside(tmp_path)
    assert {"tokenizer.json", "chat_template.jinja"} <= {file.name for file in copies}
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    theirs = transformers.AutoProcessor.from_pretrained(directories["qwen3_vl"])
    assert processor.chat_template == theirs.chat_template
    assert processor.image_processor.to_dict() == theirs.image_processor.to_dict()


def test_half_precision_keeps_adapters_in_full(directories):
    net = adapted(directories["qwen2_5_vl"], dtype="bfloat16").train()
    kinds = {value.dtype for value in net.parameters() if value.requires_grad}
    assert kinds == {torch.float32}
    assert net.plain.model.visual.patch_embed.proj.weight.dtype == torch.bfloat16
    images = images_for(net)
    inputs, prompts = encoded(net, images, ALL), asked(net, images, ALL)
    exact = adapted(directories["qwen2_5_vl"])
    with torch.autocast("cpu", torch.bfloat16):
        found = net.loss(net(images, inputs), inputs).total
    found.backward()
    with torch.no_grad():
        expected = exact.loss(exact(images, inputs), inputs).total
        with torch.autocast("cpu", torch.bfloat16):
            scores = net.score(net(images, prompts), prompts, [[5, 7], [6, 7]])
    assert abs(found - expected) / expected < 0.02
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()


# --- without weights ---


def test_a_network_of_shapes_reads_no_weights(tmp_path, directories, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with torch.device("meta"):
        net = QwenVL(pretrained=True)
    assert all(value.is_meta for value in net.parameters())
    assert net.input_spec.size == (224, 224)
    # Adapters of rank 8 at q_proj and v_proj of 28 layers: 8 * (1536 + 1536) + 8 * (1536 + 256).
    assert net.trained_parts() == {"vision": 0, "projector": 0, "language model": 28 * 38912}
    with pytest.raises(CheckpointError, match="tapetum tiny qwen_vl tiny-qwen-vl"):
        net.encode_fn((224, 224))


def test_the_whole_state_of_random_weights_is_kept(directories):
    assert QwenVL(backbone=directories["qwen2_vl"], pretrained=False).stored_elsewhere() == frozenset()


# --- what is refused ---


def test_images_that_do_not_belong_to_the_conversations_are_refused(plain):
    net = plain["qwen2_vl"]
    images = images_for(net)
    inputs = encoded(net, images, ALL)
    with pytest.raises(DataError, match="3 images for conversations that show 4"):
        net(images[:3], inputs)
    with pytest.raises(DataError, match=r"56x56 pixels .* encode_fn\(\(56, 56\)\)"):
        net(images[..., :56, :56], inputs)
    with pytest.raises(ConfigError, match=r"model.geometry.size=\[224,112\]"):
        net.encode_fn((225, 112))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vision": "lora"}, "model.net.vision=lora: adapters are for the language model"),
        ({"language": "frosen"}, "unknown value model.net.language=frosen: frozen, lora, trained"),
        ({"dtype": "bfloat16", "projector": "trained"}, "model.net.projector=trained: small steps"),
        ({"dtype": "float16"}, "unknown value model.net.dtype=float16: float32, bfloat16"),
        ({"quantization": "nf4", "language": "trained"}, "type model.net.language=lora"),
        ({"quantization": "nf4"}, 'pip install "tapetum\\[qlora\\]"'),
        ({"quantization": "int3"}, "unknown value model.net.quantization=int3"),
        ({"quantization": "nf4", "pretrained": False}, "model.net.pretrained=false draws"),
        ({"max_length": 5000}, "the language model has 1024 positions"),
        ({"target_modules": ["qkv"]}, "'qkv', which is in the vision tower"),
        ({"target_modules": ["q_porj"]}, "did you mean q_proj"),
        ({"backbone": "Qwen/Qwen-VL-Chat"}, "the first Qwen-VL, of 2023"),
    ],
)
def test_what_cannot_be_is_refused(directories, arguments, message):
    with pytest.raises(ConfigError, match=message):
        QwenVL(**{"backbone": directories["qwen2_vl"], "pretrained": True, **arguments})


def test_answers_without_a_place_are_refused(plain):
    net = plain["qwen2_vl"]
    net.check_generation(100)
    with pytest.raises(ConfigError, match="max_new_tokens=960"):
        net.check_generation(1000)
    images = images_for(net)
    prompts = asked(net, images, [ONE])
    with pytest.raises(ConfigError, match="has 1024"):
        net.generate(net(images[:1], prompts), prompts, Generation(max_new_tokens=1020))
