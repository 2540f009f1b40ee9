"""The page that shows images as a network gets them: pixels in, one HTML file out."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images.geometry import InputSpec, Size
from .format import plain
from .page import png_uri, write_page

CLASSES = ("real", "generated")
MOST_PIXELS = 1024 * 1024  # of a picture; a larger one is shown at a half, a third, … of its size
_ALONE, _BESIDE = 192, 128  # CSS pixels up to which small pictures are enlarged, one and several a sample


@dataclass(frozen=True)
class Frame:
    """One picture of a sample: uint8 [h, w] or [h, w, 3], and how it came about."""

    caption: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One image: its class, generator, path, what the file was, and the pictures a network gets of it.

    texts: what is said of it.
    """

    label: str
    generator: str | None
    path: str
    original: str
    frames: Sequence[Frame]
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Unreadable:
    """An image that was drawn and could not be shown, and why."""

    label: str
    generator: str | None
    path: str
    reason: str


@dataclass(frozen=True)
class SamplesPage:
    """Everything the page says.

    size: (height, width) of what the network gets, None where each image keeps its own. steps: what happens
    to an image on its way, a sentence each. counts: split → class → images. generators: (class, generator,
    split → images). notes: what is to be known of the index. limits: what a reader may take wrongly.
    """

    title: str
    split: str
    size: Size | None
    channels: int
    steps: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    generators: Sequence[tuple[str, str | None, Mapping[str, int]]]
    samples: Sequence[Sample]
    unreadable: Sequence[Unreadable]
    notes: Sequence[str] = ()
    limits: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    command: str = ""


def write_samples(source: SamplesPage, out: Path) -> Path:
    """The page as the file `out`, pictures inside; whole or not at all. Returns `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    classes = list(dict.fromkeys((*CLASSES, *(one.label for one in source.samples))))
    target = _BESIDE if any(len(one.frames) > 1 for one in source.samples) else _ALONE
    groups = [(name, [_card(one, target) for one in source.samples if one.label == name]) for name in classes]
    groups = [(name, cards) for name, cards in groups if cards]
    widest = max((card["width"] for _, cards in groups for card in cards), default=0)
    values: dict[str, object] = {
        "title": source.title,
        "source": source,
        "input": size_text(source.size) if source.size else "any size",
        "groups": groups,
        "card_width": widest,
        "total": sum(source.counts.get(source.split, {}).values()),
    }
    with TemporaryDirectory(dir=out.parent, prefix=".samples-") as scratch:
        return write_page("samples.html", values, [], Path(scratch)).replace(out)


def geometry_steps(spec: InputSpec, decoder: str) -> list[str]:
    """What the network's input_spec does to an image outside training, a sentence each."""
    colours = "RGB" if spec.channels == 3 else "one channel, grey or infrared"
    found = [f"The file is decoded to {colours}, 8 bits a value, and turned upright (decoder: {decoder})."]
    kernel = spec.interpolation if spec.interpolation == "nearest" else f"{spec.interpolation}, antialiased"
    if spec.size is None or spec.resize == "none":
        found.append("It keeps its size (resize: none).")
    else:
        height, width = spec.size
        found.append(
            {
                "squash": f"It is squashed to {size_text(spec.size)}, whatever its aspect ratio ({kernel}).",
                "shortest": f"Its shorter side is scaled to {min(height, width)} pixels ({kernel}).",
                "pad": f"It is scaled to fit into {size_text(spec.size)} ({kernel}); black fills the rest.",
                "tile": f"If it is smaller than {size_text(spec.size)}, it is repeated until it is not; "
                "a larger one stays as it is.",
            }[spec.resize]
        )
    if spec.crop is not None:
        found.append(f"The middle {size_text(spec.crop)} is cut out; a smaller image gets a black border.")
    return found


def augment_steps(node: Mapping[str, Any], spec: InputSpec) -> list[str]:
    """What `augment` of a config changes in training, a sentence each; empty where it changes nothing."""
    before, after = ([call(one) for one in node.get(key) or ()] for key in ("before_crop", "after_crop"))
    found = []
    if node.get("enlarge") and spec.size is not None and spec.resize != "none":
        height, width = (side + node["enlarge"] for side in spec.size)
        found.append(f"In training the resize goes to {size_text((height, width))}.")
    if before:
        found.append(f"In training, before the crop: {', '.join(before)}.")
    if node.get("crop") == "random" and spec.output_size is not None:
        place = f"In training the crop to {size_text(spec.output_size)} lies at a random place"
        fits = spec.crop in (None, spec.size) and spec.resize in ("squash", "pad")
        alone = fits and not node.get("enlarge")
        found.append(
            f"{place}, of which there is only one: augment.enlarge=8 gives it room." if alone else f"{place}."
        )
    if after:
        found.append(f"In training, after the crop: {', '.join(after)}.")
    return found


def call(node: Any) -> str:
    """A node with a `_target_` as it would be written: `RandomJpeg(p=0.5, quality=[30,100])`."""
    if isinstance(node, Mapping) and "_target_" in node:
        arguments = ", ".join(
            f"{key}={call(value)}" for key, value in node.items() if not key.startswith("_")
        )
        return f"{str(node['_target_']).rpartition('.')[2]}({arguments})"
    if isinstance(node, list):
        return f"[{', '.join(map(call, node))}]" if any(map(_is_node, node)) else plain(node)
    return plain(node)


def size_text(size: Size) -> str:
    """(height, width) as people say it: `224 × 160` is 224 wide and 160 high."""
    return f"{size[1]} × {size[0]}"


# -- helpers -----------------------------------------------------------------------------------------------


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _card(sample: Sample, target: int) -> dict[str, Any]:
    """A sample's pictures as the template takes them, and the CSS pixels that they need side by side."""
    frames = list(_shown(sample.frames, target))
    return {
        "sample": sample,
        "frames": frames,
        "width": sum(frame["width"] for frame in frames) + 10 * (len(frames) - 1),
    }


def _shown(frames: Sequence[Frame], target: int) -> Iterator[dict[str, Any]]:
    told = ""
    for frame in frames:
        height, width = frame.pixels.shape[:2]
        times = max(1, target // max(height, width))
        part = 1
        while (height // part) * (width // part) > MOST_PIXELS:
            part += 1
        picture = Image.fromarray(frame.pixels)
        buffer = io.BytesIO()
        (picture.reduce(part) if part > 1 else picture).save(buffer, "png")
        scale = f", shown at 1/{part}" if part > 1 else f", enlarged ×{times}" if times > 1 else ""
        before, told = told, size_text((height, width)) + scale
        yield {
            "uri": png_uri(buffer.getvalue()),
            "caption": frame.caption,
            "size": told if told != before else "",
            "width": -(-width // part) * times,
        }
