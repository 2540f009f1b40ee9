"""What captioning saves: kept features, logits where there are labels, captions in one batch; and Flickr8k.

features: an epoch of a frozen CLIP ViT-B/32 (random weights) with a tiny Qwen3, read from kept features and
computed live, in turns. logits: peak memory of loss and gradient with a vocabulary of 151,936, ours and with
logits at every position, in processes of their own. generation: 32 captions in one batch and one at a time.
flickr8k: a captioner from scratch on 1,500 of its images, and the caption of the training image with the most
similar pixels; it takes about six minutes, and is left out where the images are not at hand.

Goals: at least 5 times the speed from features; at most a third of the memory; at least 4 times the captions;
a CIDEr-D above that of the nearest image's caption.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _timing import Goal, conclude, console, interleaved, quick, ratio, table, wall
from PIL import Image
from tapetum.backbones import tiny
from tapetum.backbones.generation import Generation
from tapetum.captioners.clip_prefix import ClipPrefix
from tapetum.datamodules.captioning import CaptioningDataModule
from tapetum.evaluation.captioning import read_caption_predictions
from tapetum.images.augment import Augment
from tapetum.images.decode import decode
from tapetum.indexes import flickr8k, image_text_folder
from tapetum.indexes.build import build
from tapetum.indexes.table import Index
from tapetum.metrics.captions import caption_metrics

SPEED_BAR, MEMORY_BAR, GENERATION_BAR = 5.0, 1 / 3, 4.0
VOCABULARY, PREFIX = 151_936, 10
KEPT, LIVE = "kept features", "live features"
OURS, FULL = "logits at labels", "logits everywhere"


def main() -> int:
    """Three ratios, then the captioner from scratch beside its baseline."""
    if sys.argv[1:2] == ["--peak"]:
        print(json.dumps(_peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
        return 0
    small = quick(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        goals = [*_features(Path(scratch), small), _logits(small), _generation(Path(scratch), small)]
        goals += _flickr8k(Path(scratch), small)
    return conclude(goals, quick=small)


# --- features ---


def _features(scratch: Path, small: bool) -> list[Goal]:
    count, repeats = (8, 1) if small else (64, 5)
    net = ClipPrefix(
        backbone="openai/clip-vit-base-patch32",
        pretrained=False,
        language_model=str(tiny.qwen3(scratch / "tiny-qwen3")),
        language_model_pretrained=True,
        prefix_length=PREFIX,
    ).train()
    index = _pictures(scratch / "pictures", count)
    data = {
        name: CaptioningDataModule(
            index,
            net.input_spec,
            encode=net.encode_fn(),
            augment=Augment(),
            seed=0,
            cache_dir=scratch / "cache",
            batch_size=8,
            cache="features" if name == KEPT else "none",
            network=net,
        )
        for name in (KEPT, LIVE)
    }

    def epoch(name: str) -> list[float]:
        optimizer = torch.optim.SGD(net.adapter.parameters(), lr=1e-2)
        losses = []
        for batch in data[name].train_dataloader():
            kept = "features" in batch
            visual = net.forward_features(batch["features"]) if kept else net(batch["images"])
            loss = net.loss(visual[batch["owners"]], batch["inputs"])
            mean = loss.total / loss.count
            optimizer.zero_grad()
            mean.backward()
            losses.append(float(mean.detach()))
            optimizer.step()
        return losses

    weights = {name: value.clone() for name, value in net.state_dict().items()}
    losses = {}
    for name in (KEPT, LIVE):
        net.load_state_dict(weights)
        losses[name] = epoch(name)
    apart = max(abs(a - b) for a, b in zip(losses[KEPT], losses[LIVE], strict=True))
    seconds = interleaved({name: partial(wall, partial(epoch, name)) for name in (KEPT, LIVE)}, repeats)
    table(
        f"an epoch of {count} images at 224 pixels, median of {repeats}",
        ["", "seconds", "images/s"],
        [[name, f"{median(seconds[name]):.3f}", f"{count / median(seconds[name]):.0f}"] for name in seconds],
    )
    return [
        Goal("speed from kept features", ratio(seconds, LIVE, KEPT), ">=", SPEED_BAR, "x"),
        Goal("largest difference of the losses", apart, "<=", 1e-5, timed=False),
    ]


def _pictures(root: Path, count: int) -> Index:
    root.mkdir()
    words = ("a dog runs over the grass", "two children play with a ball near the sea", "a red car")
    named = {f"{number:03}.jpg": words[number % 3] for number in range(count)}
    for number, name in enumerate(named):
        noise = np.random.default_rng(number).integers(0, 255, (28, 28, 3), np.uint8)
        Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC).save(root / name, quality=90)
    (root / "manifest.json").write_text(json.dumps(named))
    return build(
        image_text_folder.index,
        root=root,
        val_fraction=0.0,
        seed=0,
        cache=None,
        required=("captions",),
        name="image_text_folder",
    )


# --- logits ---


def _logits(small: bool) -> Goal:
    """Judged behind ten vectors; behind one, and with few captions, less is saved, which is shown."""
    repeats = 1 if small else 3
    sizes = {(2 if small else 16, PREFIX): {}, (2 if small else 8, 1): {}}
    for (captions, prefix), found in sizes.items():
        for name in (OURS, FULL):
            command = [sys.executable, __file__, "--peak", name, str(captions), str(prefix)]
            runs = [
                subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repeats)
            ]
            found[name] = [float(json.loads(done.stdout)) for done in runs]
    table(
        f"loss and gradient, {VOCABULARY} words, MB above the model's",
        ["captions", "prefix", OURS, FULL, "ratio"],
        [
            [
                str(captions),
                str(prefix),
                *(f"{median(found[name]):.0f}" for name in found),
                f"{ratio(found, OURS, FULL):.2f}",
            ]
            for (captions, prefix), found in sizes.items()
        ],
    )
    judged = next(iter(sizes.values()))
    return Goal("memory of the loss", ratio(judged, OURS, FULL), "<=", MEMORY_BAR, "x")


def _peak(name: str, captions: int, prefix: int) -> float:
    """MB that loss and gradient add to what the process has with the model in it."""
    from tapetum.captioners.decoder import TextDecoder
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=32, tie_word_embeddings=True, **sizes
        )
    ).requires_grad_(False)
    decoder = TextDecoder(model, None)
    lengths = torch.linspace(8, 24, captions).long()
    mask = (torch.arange(24) < lengths[:, None]).long()
    inputs = {"input_ids": torch.randint(0, VOCABULARY, mask.shape), "attention_mask": mask}

    def step(count: int) -> None:
        visual = torch.randn(count, prefix, 64, requires_grad=True)
        own = {key: value[:count] for key, value in inputs.items()}
        if name == OURS:
            decoder.loss(visual, own).total.backward()
            return
        words = model.get_input_embeddings()(own["input_ids"])
        labels = own["input_ids"].masked_fill(own["attention_mask"] == 0, -100)
        labels = torch.cat([torch.full((count, prefix), -100), labels], 1)
        model(inputs_embeds=torch.cat([visual, words], 1), labels=labels).loss.backward()

    step(1)
    before = _highest()
    step(captions)
    return _highest() - before


def _highest() -> float:
    """The most MB that this process had; what getrusage says begins with its parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return float(status["VmHWM"].split()[0]) / 1024


# --- generation ---


def _generation(scratch: Path, small: bool) -> Goal:
    count, repeats = (4, 1) if small else (32, 5)
    net = ClipPrefix(
        backbone=str(tiny.clip(scratch / "tiny-clip")),
        pretrained=True,
        language_model=str(scratch / "tiny-qwen3"),
        language_model_pretrained=True,
        prefix_length=PREFIX,
    ).eval()
    how = Generation(max_new_tokens=24, min_length=23)
    visual = torch.randn(count, PREFIX, net.decoder.width)
    texts: dict[str, list[str]] = {}

    def together() -> None:
        texts["in one batch"] = net.generate(visual, how).texts

    def alone() -> None:
        texts["one at a time"] = [net.generate(one[None], how).texts[0] for one in visual]

    variants = {"in one batch": partial(wall, together), "one at a time": partial(wall, alone)}
    together()
    seconds = interleaved(variants, repeats)
    assert texts["in one batch"] == texts["one at a time"]
    table(
        f"{count} captions of 24 tokens, a tiny Qwen3, median of {repeats}",
        ["", "captions/s"],
        [[name, f"{count / median(values):.0f}"] for name, values in seconds.items()],
    )
    return Goal(
        "captions in one batch", ratio(seconds, "one at a time", "in one batch"), ">=", GENERATION_BAR, "x"
    )


# --- Flickr8k ---

_TRAINING = (
    *("model=pixel_llm_small", "data=flickr8k", "data.batch_size=32", "data.num_workers=0"),
    *("optimizer.lr=1e-3", "model.net.dropout=0.1", "trainer.max_epochs=60", "callbacks=none"),
    *("model.generate_images=50", "train.monitor=val/loss", "data.cache=decoded", "train.channels_last=true"),
)


def _flickr8k(scratch: Path, small: bool) -> list[Goal]:
    shared = Path(os.environ.get("TAPETUM_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    archive = shared / "flickr8k.tar"
    if small or not archive.is_file():
        console.print(f"flickr8k: left out, {'--quick' if small else f'{archive} is not there'}")
        return []
    with tarfile.open(archive) as opened:
        opened.extractall(scratch, filter="data")
    root = scratch / "flickr8k"
    outputs = scratch / "outputs"
    train = Path(__file__).parents[1] / "train.py"
    words = [*_TRAINING, f"data.root={root}", f"paths.outputs={outputs}", f"paths.cache={scratch / 'cache'}"]
    subprocess.run([sys.executable, train, *words], check=True, capture_output=True)
    (run,) = (path.parent for path in outputs.glob("captioning/*/*/config.yaml"))
    predictions = read_caption_predictions(run / "predictions" / "test.parquet")
    references = predictions["references"].to_pylist()
    index = build(
        flickr8k.index,
        root=root,
        val_fraction=0.1,
        seed=42,
        cache=None,
        required=("captions",),
        name="flickr8k",
    )
    nearest = list(_nearest_captions(index, predictions["index"].to_pylist()))
    found = {
        "from scratch": caption_metrics(predictions["text"].to_pylist(), references),
        "caption of the nearest image": caption_metrics(nearest, references),
    }
    names = ("cider", "rouge_l", "bleu_1", "bleu_4")
    table(
        f"Flickr8k, {len(index.rows('train')):,} images learnt from, {len(references)} held out",
        ["", *names],
        [[who, *(f"{figures[name]:.3f}" for name in names)] for who, figures in found.items()],
    )
    own, theirs = (figures["cider"] for figures in found.values())
    return [Goal("CIDEr-D above the nearest image's caption", own - theirs, ">=", 0.0, timed=False)]


def _nearest_captions(index: Index, rows: list[int]) -> Iterator[str]:
    """Of the training image whose 16 x 16 pixels have the highest correlation, its first caption."""

    def small(row: int) -> np.ndarray:
        root, path = index.location(row)
        pixels = decode((root / path).read_bytes(), channels=3).permute(1, 2, 0).numpy()
        values = np.asarray(Image.fromarray(pixels).resize((16, 16)), np.float64).ravel()
        values -= values.mean()
        return values / max(float(np.linalg.norm(values)), 1e-9)

    train = index.rows("train")
    known = np.stack([small(int(row)) for row in train])
    captions = index.table.column("captions")
    for row in rows:
        yield captions[int(train[int(np.argmax(known @ small(row)))])].as_py()[0]


if __name__ == "__main__":
    sys.exit(main())
