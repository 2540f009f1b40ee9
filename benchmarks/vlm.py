"""What a vision-language model saves: kept features, answers scored in one pass, activations that are kept.

All of it on an InstructBLIP with random weights whose parts cost about what those of the published 7B cost
beside each other (a tower of 257 tokens, a Q-Former of 32, a language model that reads 40 to 50 tokens).

features: a training step, and the scores of an evaluation, from kept features and with tower and Q-Former, in
turns. answers: both answers of 4, 8 and 16 images at once scored in one pass, and the same images answered by
generation (16 tokens, with a key-value cache); the more at once, the less a token costs beside the pass, and
the goal is that of 16. memory: peak of a training step with the language
model's activations computed again, with those of the whole model (its input embeddings hooked, as
transformers does it), and with none, in processes of their own.

--shuffled RUN: the test answers of a run of experiment=synthetic_vqa, and those that it gives where every
image is swapped for another one's; then only what can be guessed from the question is left.

Goals: training at least 1.4 times and evaluation at least 1.8 times as fast from kept features; scoring at
least 3 times as fast as generation; less memory than with the whole model's hook.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _timing import Goal, conclude, interleaved, quick, ratio, table, wall
from tapetum.backbones import tiny
from tapetum.backbones.generation import Generation
from tapetum.vlms.instructblip import InstructBlip

TRAIN_BAR, EVALUATION_BAR, SCORING_BAR = 1.4, 1.8, 3.0
KEPT, LIVE = "kept features", "live"
SCORED, WRITTEN = "scored in one pass", "generated"
OURS, WHOLE, NONE = "language model only", "whole model's hook", "no checkpointing"
ASKED = "Is this image real or AI-generated? Answer with one word."


def main() -> int:
    """Two ratios of speed from features, one of scoring, one of memory."""
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(_peak(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))))
        return 0
    if sys.argv[1:2] == ["--shuffled"]:
        _shuffled(sys.argv[2])
        return 0
    small = quick(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        place = _proportioned(Path(scratch), small)
        goals = [*_features(place, small), _answers(place, small), _memory(place, small)]
    return conclude(goals, quick=small)


def _proportioned(scratch: Path, small: bool) -> Path:
    """The directory of an InstructBLIP whose parts have the published proportions of work."""
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = tiny.instructblip(scratch / "instructblip")
    config: Any = InstructBlipConfig.from_pretrained(place)
    depth = 1 if small else 8
    vision = {"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    config.vision_config.update({**vision, "num_hidden_layers": depth, "image_size": 64 if small else 224})
    config.vision_config.update({"patch_size": 8 if small else 14, "initializer_range": 0.05})
    config.qformer_config.update({"encoder_hidden_size": 256, "num_hidden_layers": 1 if small else 2})
    text = {"hidden_size": 640, "intermediate_size": 1728, "num_attention_heads": 8}
    config.text_config.update({**text, "num_key_value_heads": 8, "num_hidden_layers": depth})
    config.text_config.head_dim = 80
    config.num_query_tokens = 8 if small else 32
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(InstructBlipConfig.from_dict(config.to_dict()))
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(place)
    _fit_processor(place, config.num_query_tokens, config.vision_config.image_size)
    return place


def _fit_processor(place: Path, queries: int, size: int) -> None:
    file = place / "processor_config.json"
    content = json.loads(file.read_text())
    content["num_query_tokens"] = queries
    content["image_processor"]["size"] = {"height": size, "width": size}
    file.write_text(json.dumps(content))


def _network(place: Path, **arguments: Any) -> InstructBlip:
    return InstructBlip(backbone=str(place), pretrained=True, dropout=0.0, **arguments)


def _batch(
    net: InstructBlip, count: int
) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Images, what is learnt of them, and what is asked."""
    size = net.input_spec.output_size
    assert size is not None
    encode = net.encode_fn(size)
    said = [
        [{"role": "user", "content": f"<image>\n{ASKED}"}, {"role": "assistant", "content": word}]
        for word in ("real", "fake") * (count // 2)
    ]
    images = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)
    return images, encode(said), encode.prompts(said)


# --- features ---


def _features(place: Path, small: bool) -> list[Goal]:
    count, repeats = (2, 1) if small else (8, 21)
    net = _network(place).train()
    images, inputs, prompts = _batch(net, count)
    features = net.frozen_features(images, inputs)
    candidates = net.encode_fn(images.shape[-2:]).candidates(
        [{"role": "user", "content": f"<image>\n{ASKED}"}], ["real", "fake"]
    )
    optimizer = torch.optim.SGD([one for one in net.parameters() if one.requires_grad], lr=1e-3)

    def visual(name: str) -> torch.Tensor:
        return net.forward_features(features, inputs) if name == KEPT else net(images, inputs)

    def step(name: str) -> float:
        loss = net.loss(visual(name), inputs)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        return float(loss.total.detach())

    def scores(name: str) -> torch.Tensor:
        with torch.inference_mode():
            return net.score(visual(name), prompts, candidates)

    with torch.no_grad():
        losses = {name: net.loss(visual(name), inputs).totals for name in (KEPT, LIVE)}
    apart = float((losses[KEPT] - losses[LIVE]).abs().max())
    trained = interleaved({name: partial(wall, partial(step, name)) for name in (KEPT, LIVE)}, repeats)
    net.eval()
    judged = interleaved({name: partial(wall, partial(scores, name)) for name in (KEPT, LIVE)}, repeats)
    table(
        f"{count} images, median of {repeats}",
        ["", "a training step, s", "their answers scored, s"],
        [[name, f"{median(trained[name]):.3f}", f"{median(judged[name]):.3f}"] for name in (KEPT, LIVE)],
    )
    return [
        Goal("training from kept features", ratio(trained, LIVE, KEPT), ">=", TRAIN_BAR, "x"),
        Goal("evaluation from kept features", ratio(judged, LIVE, KEPT), ">=", EVALUATION_BAR, "x"),
        Goal("largest difference of the losses", apart, "<=", 1e-4, timed=False),
    ]


# --- answers ---


def _answers(place: Path, small: bool) -> Goal:
    counts, repeats = ((2, 4), 1) if small else ((4, 8, 16), 5)
    net = _network(place).eval()
    asked = [{"role": "user", "content": f"<image>\n{ASKED}"}]
    how = Generation(max_new_tokens=16, min_length=15)
    names = (SCORED, "answers of several tokens", WRITTEN)
    rows, times = [], {}
    for count in counts:
        images, _, prompts = _batch(net, count)
        encode = net.encode_fn(images.shape[-2:])
        candidates = encode.candidates(asked, ["real", "fake"])
        several = encode.candidates(asked, ["an authentic photo", "an artificial picture"])
        with torch.inference_mode():
            visual = net(images, prompts)
            work = {
                SCORED: partial(net.score, visual, prompts, candidates),
                names[1]: partial(net.score, visual, prompts, several),
                WRITTEN: partial(net.generate, visual, prompts, how),
            }
            seconds = interleaved({name: partial(wall, one) for name, one in work.items()}, repeats)
        times[count] = ratio(seconds, WRITTEN, SCORED)
        rows.append([str(count), *(f"{median(seconds[name]):.3f}" for name in names), f"{times[count]:.2f}"])
    table(
        f"so many images at once behind the tower, seconds, median of {repeats}",
        ["images", *names, "generated over scored"],
        rows,
    )
    most = counts[-1]
    return Goal(f"answers scored, times generated, {most} at once", times[most], ">=", SCORING_BAR, "x")


def _shuffled(run: str) -> None:
    import tapetum
    from tapetum.metrics.answers import answer_metrics
    from tapetum.runs.building import build_datamodule, build_index

    loaded = tapetum.load(run)
    module: Any = loaded.module
    index = build_index(loaded.config)
    data = build_datamodule(loaded.config, index, module)
    batches = list(data.eval_dataloader("test"))
    images = torch.cat([batch["images"] for batch in batches])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    rows = []
    for name, shown in (("own images", images), ("another's images", images[order])):
        texts: list[str] = []
        start = 0
        with torch.inference_mode():
            for batch in batches:
                own = shown[start : start + len(batch["index"])].to(loaded.device)
                start += len(own)
                prompts = {key: value.to(loaded.device) for key, value in batch["prompts"].items()}
                texts += module.net.generate(module.net(own, prompts), prompts, module.generation).texts
        answers = [text for batch in batches for text in batch["texts"]]
        rows.append([name, f"{answer_metrics(texts, answers)['exact_match']:.3f}"])
    table(f"{len(images)} test answers of {run}", ["", "right"], rows)


# --- memory ---


def _memory(place: Path, small: bool) -> Goal:
    count, repeats = (2, 1) if small else (64, 3)  # fewer hide behind what loading took
    found: dict[str, list[float]] = {}
    for name in (OURS, WHOLE, NONE):
        command = [sys.executable, __file__, "--peak", name, str(place), str(count)]
        runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repeats)]
        found[name] = [float(json.loads(done.stdout)) for done in runs]
    table(
        f"a training step of {count} images, MB above the model's",
        ["activations computed again in", "MB"],
        [[name, f"{median(values):.0f}"] for name, values in found.items()],
    )
    return Goal("memory, of the whole model's hook", ratio(found, OURS, WHOLE), "<=", 1.0, "x")


def _peak(name: str, place: Path, count: int) -> float:
    """MB that a training step adds to what the process has with the model in it."""
    torch.set_num_threads(1)
    net = _network(place, gradient_checkpointing=name == OURS).train()
    if name == WHOLE:
        net.plain.enable_input_require_grads()
        net.plain.gradient_checkpointing_enable({"use_reentrant": False})
        for module in net.modules():
            if type(module).__name__.endswith("Layer"):
                module.training = True
    images, inputs, _ = _batch(net, count)

    def step(few: int) -> None:
        own = {key: value[:few] for key, value in inputs.items()}
        if name == WHOLE:  # the tower with a graph, which its hook makes
            pixels = net.normalize(images[:few])
            taken = ("input_ids", "attention_mask", "qformer_input_ids", "qformer_attention_mask")
            net.model(
                pixel_values=pixels, **{key: own[key] for key in taken}, labels=own["labels"]
            ).loss.backward()
        else:
            net.loss(net(images[:few], own), own).total.backward()

    step(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(count)
    return max(1.0, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


if __name__ == "__main__":
    sys.exit(main())
