"""The memory estimate, compared with what torch's profiler saw a real training allocate."""

from __future__ import annotations

import pytest
import torch
from tapetum.backbones import bpe, tiny
from tapetum.config.build import build
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.images.geometry import InputSpec, with_geometry
from tapetum.indexes.caption_grammar import scenes
from tapetum.optim.build import build_optimizer
from tapetum.runs.building import build_network, build_network_on_meta
from tapetum.runs.memory import MemoryEstimate, UnknownMemoryError, estimate, size
from torch.profiler import ProfilerActivity, profile

TOLERANCE, WORKSPACE = 0.1, 5e6  # of the measured peak; bytes that a convolution takes for itself
RESNET = ("model=timm_backbone", "model.net.name=test_resnet.r160_in1k", "model.net.size=64")
CAPTIONER = ("model=pixel_llm_small", "model.net.vocabulary=300", "model.net.max_caption_length=32")
SHORT = ("data.batch_size=16", "model.net.max_target_token_length=16")  # of answers, which are cut there
BLIP = ("model=instructblip_lora", "model.net.backbone=tiny:instructblip", *SHORT)
QWEN = ("model=qwen_vl_lora", "model.net.backbone=tiny:qwen_vl", "model.geometry.size=56", *SHORT)
AGAIN = "model.net.gradient_checkpointing=true"
SIGHT = ("model.net.vision=trained", "model.net.projector=trained")
TASKS = {
    "captioner": (*CAPTIONER, "data.batch_size=16"),
    "embedder": ("model=small_embedder", "data.batch_size=32"),
    "frozen tower": ("model=qwen_vl", "model.net.backbone=tiny:qwen_vl", "model.net.size=56"),
    "InstructBLIP": ("model=instructblip_small", *SHORT),
    "InstructBLIP, LoRA": BLIP,
    "InstructBLIP, again": (*BLIP, AGAIN),
    "Qwen-VL, LoRA": QWEN,
    "Qwen-VL, again": (*QWEN, AGAIN),
    "Qwen-VL, sight": (*QWEN, *SIGHT),
}


def config(*overrides):
    return compose(prepare(["accelerator=cpu", *overrides], multirun=False)).config


def estimated(*overrides, spec=None):
    made = config(*overrides)
    net = build_network_on_meta(made)
    return estimate(net, made, spec or with_geometry(net.input_spec, made["model"]["geometry"]))


def conversations(net, size, batch, tokens):
    """Encoded for images of `size`: a question and an answer, which is cut, of so many tokens together."""
    encode = net.encode_fn(size)
    for words in range(1, tokens):
        said = [
            {"role": "user", "content": "<image>\n" + "is " * words},
            {"role": "assistant", "content": "no " * tokens},
        ]
        inputs = encode([said])
        if (inputs["input_ids"] != net.plain.config.image_token_id).sum() == tokens:
            return encode([said] * batch)
    raise AssertionError(f"no question makes {tokens} tokens")


def step_of(net, made, size, tokens):
    """The loss of images as the task's module has it, with real texts of so many tokens."""
    batch = made["data"]["batch_size"]
    if made["task"] == "vlm":
        inputs = conversations(net, size, batch, tokens)
        return lambda images: net.loss(net(images, inputs), inputs).total
    if made["task"] == "captioning":
        inputs = net.encode_fn()(["a red circle " * tokens] * batch)
        assert inputs["input_ids"].shape == (batch, tokens)
        return lambda images: net.loss(net(images), inputs).total
    return lambda images: net(images).float().mean()


def measured(*overrides, tokens=0):
    """Bytes at the peak of two real steps: the weights, and what the allocator handed out meanwhile."""
    made = config(*overrides)
    if "vocabulary" in made["model"]["net"]:
        words = bpe.learn(map(str, scenes(1, 4)), made["model"]["net"]["vocabulary"])
        made["model"]["net"]["tokenizer"] = words
    net = build_network(made).train()
    optimizer = build_optimizer(build(made["optimizer"]), net)
    spec, batch = with_geometry(net.input_spec, made["model"]["geometry"]), made["data"]["batch_size"]
    step = step_of(net, made, spec.output_size, tokens)
    half = made["trainer"]["precision"] == "bf16-mixed"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for _ in range(2):
            images = torch.zeros((batch, spec.channels, *spec.output_size), dtype=torch.uint8)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = step(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert events
    weights = sum(one.nbytes for one in [*net.parameters(), *net.buffers()])
    now = peak = weights
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=npr_64", "data.batch_size=16"),
        ("model=npr_64", "data.batch_size=16", "trainer.precision=bf16-mixed"),
        ("model=small_resnet", "data.batch_size=64", "optimizer=sgd"),
        (*RESNET, "data.batch_size=32"),
        (*RESNET, "data.batch_size=32", "model.net.freeze=true"),
        ("model=npr_64", "data.batch_size=1"),
    ],
    ids=["npr", "bf16", "sgd", "resnet", "frozen", "one image"],
)
def test_the_estimate_is_within_a_tenth_of_what_a_training_took(overrides):
    expected = pytest.approx(measured(*overrides), rel=TOLERANCE, abs=WORKSPACE)
    assert estimated(*overrides).total == expected


@pytest.mark.parametrize("overrides", TASKS.values(), ids=TASKS)
def test_so_it_is_in_every_task_for_texts_as_long_as_it_says(overrides):
    found = estimated(*overrides)
    assert found.total == pytest.approx(measured(*overrides, tokens=found.tokens), rel=TOLERANCE)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl"])
def test_so_it_is_for_each_qwen(tmp_path, model_type):
    backbone = tiny.qwen_vl(tmp_path / model_type, model_type=model_type)
    size = 64 if model_type == "qwen3_vl" else 56
    overrides = (*QWEN, *SIGHT, f"model.net.backbone={backbone}", f"model.geometry.size={size}")
    found = estimated(*overrides)
    assert found.total == pytest.approx(measured(*overrides, tokens=found.tokens), rel=TOLERANCE)


def test_weights_that_are_two_things_at_once_are_counted_once():
    net = build_network(config(*CAPTIONER))
    assert net.decoder.plain.lm_head.weight is net.decoder.plain.transformer.wte.weight
    found = estimated(*CAPTIONER)
    assert found.weights == sum(one.nbytes for one in [*net.parameters(), *net.buffers()])
    assert found.gradients == sum(one.nbytes for one in net.parameters())


def test_weights_gradients_and_states_are_counted_exactly():
    found = estimated("model=small_resnet")
    net = build_network(config("model=small_resnet"))
    parameters = 4 * sum(one.numel() for one in net.parameters())
    buffers = sum(one.nbytes for one in net.buffers())
    assert found.weights == parameters + buffers
    assert found.gradients == parameters
    assert found.optimizer == 2 * parameters  # AdamW's two moments
    assert found.total == found.weights + found.gradients + found.optimizer + found.activations


@pytest.mark.parametrize(
    ("overrides", "states"),
    [(("optimizer=sgd",), 1), (("optimizer=sgd", "optimizer.momentum=0"), 0), (("optimizer=adam",), 2)],
)
def test_an_optimizers_states_follow_from_its_arguments(overrides, states):
    found = estimated("model=small_resnet", *overrides)
    assert found.optimizer == states * found.gradients


def test_activations_grow_with_the_batch_and_shrink_with_the_precision():
    single, double, half = (
        estimated("model=npr_64", *more).activations
        for more in (
            ["data.batch_size=32"],
            ["data.batch_size=64"],
            ["data.batch_size=32", "trainer.precision=bf16-mixed"],
        )
    )
    assert double == pytest.approx(2 * single, rel=0.05)
    assert 0.4 * single < half < 0.7 * single


def test_accumulated_gradients_stay_alive_through_the_next_step():
    once = estimated(*RESNET, "data.batch_size=2")
    often = estimated(*RESNET, "data.batch_size=2", "trainer.accumulate_grad_batches=4")
    assert often.total > once.total


def test_processes_that_share_gradients_hold_them_twice():
    one = estimated("model=small_resnet")
    two = estimated("model=small_resnet", "accelerator=cpu_ddp")
    assert two.gradients == 2 * one.gradients
    assert two.activations == one.activations


def test_half_weights_take_half_the_room():
    whole, half = (
        estimated("model=small_resnet", f"trainer.precision={one}") for one in ("32-true", "bf16-true")
    )
    assert half.gradients == whole.gradients // 2
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_is_not_fitted_needs_no_gradients():
    found = estimated("model=npr_64", "model.fit=false")
    assert (found.phase, found.batch) == ("predicting", config()["data"]["eval_batch_size"])
    assert found.gradients == found.optimizer == 0
    assert 0 < found.activations < estimated("model=npr_64", "data.batch_size=64").activations


def test_nothing_is_allocated_for_a_batch_that_no_machine_holds():
    assert estimated("model=npr_64", "data.batch_size=1000000").total > 1e12


def test_images_without_one_size_have_no_estimate():
    with pytest.raises(UnknownMemoryError, match="the images keep different sizes"):
        estimated("model=npr_64", spec=InputSpec(size=None, resize="none"))


def test_a_network_that_looks_at_pixels_has_none_and_says_why():
    class Looks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 1)

        def forward(self, images):
            scale = 2.0 if images.float().mean().item() > 0 else 1.0
            return self.head(images.float().mean(dim=(2, 3)) * scale).squeeze(1)

    with torch.device("meta"):
        net = Looks()
    with pytest.raises(UnknownMemoryError, match=r"run without pixels: aten\._local_scalar"):
        estimate(net, config(), InputSpec(size=(8, 8)))


def test_an_optimizer_that_wants_a_closure_has_none_and_says_why():
    words = ["optimizer._target_=torch.optim.LBFGS", "~optimizer.weight_decay"]
    with pytest.raises(UnknownMemoryError, match="the optimizer takes no step on its own"):
        estimated("model=small_resnet", *words)


def test_an_estimate_reads_as_a_sentence():
    found = MemoryEstimate("training", 32, 6_000_000, 6_000_000, 0, 1_500_000_000)
    assert str(found) == ("1.51 GB to train on 32 images (activations 1.50 GB, weights 6 MB, gradients 6 MB)")
    assert found.as_dict()["total"] == found.total
    assert [size(one) for one in (0, 1, 999_999, 1e9)] == ["0 MB", "1 MB", "1 MB", "1.00 GB"]
