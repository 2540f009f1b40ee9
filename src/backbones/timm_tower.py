"""Any timm model as an image tower: features out, no classifier; random, hub or local weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.models import adapt_input_conv, is_model, split_model_name_tag
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..images.geometry import InputSpec, ResizeRule
from ..images.normalize import Statistics
from .weights import building_on_meta, load_state, read_state_dict

_RESIZE_RULES: dict[str, ResizeRule] = {"center": "shortest", "squash": "squash", "border": "pad"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def create(
    name: str, *, pretrained: bool | str, in_chans: int = 3, image_size: int | None = None
) -> nn.Module:
    """A timm model without its classifier: normalised float [B, in_chans, H, W] -> [B, width(tower)].

    name: a timm name, with or without the tag of its weights (`efficientnet_b0`, `efficientnet_b0.ra_in1k`).
    pretrained: False for random weights, True for timm's own from the hub (or its cache), or the path of a
        weight file or of a directory that holds `model.safetensors` or `pytorch_model.bin`.
    image_size: side in pixels for models that fix it when they are built (most transformers).
    Under `torch.device("meta")` the architecture is built and no weight is looked for.
    Raises ConfigError for an unknown name, CheckpointError for weights that are absent or do not fit.
    """
    config = pretrained_config(name)
    fixed = config["fixed_input_size"] and image_size is not None
    sized: dict[str, Any] = {"img_size": image_size} if fixed else {}
    if pretrained is True and not building_on_meta():
        return _from_hub(name, config, in_chans, sized)
    tower: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_chans, **sized)
    if isinstance(pretrained, str) and not building_on_meta():
        load_pretrained(tower, pretrained, in_chans=in_chans)
    return tower


def pretrained_config(name: str) -> dict[str, Any]:
    """What timm records of a model's weights: `hf_hub_id`, `input_size`, `mean`, `std`, `crop_pct` and so on.

    Raises ConfigError with the nearest names when timm knows no such model or no such tag.
    """
    architecture, tag = split_model_name_tag(name)
    if not is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists the names"
        raise ConfigError(f"unknown timm model model.net.name={name}: {hint}")
    known = [full.removeprefix(f"{architecture}.") for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        choices = ", ".join(known) or "none: name the model without a tag"
        raise ConfigError(f"unknown weights {tag!r} in model.net.name={name}: timm has {choices}")
    config = timm.get_pretrained_cfg(name)
    if config is None:
        raise ConfigError(f"timm records no input size for model.net.name={name}: choose another model")
    return asdict(config)


def width(tower: nn.Module) -> int:
    """Length of the feature vector that `tower` returns (not always timm's `num_features`: MobileNetV3)."""
    return int(tower.head_hidden_size)  # type: ignore[arg-type]


def load_pretrained(tower: nn.Module, path: str, *, in_chans: int = 3) -> None:
    """Load a local file or directory strictly into a tower made by `create`; its classifier is dropped.

    With `in_chans` other than the file's 3 the first convolution is folded as timm does (1: summed over RGB).
    Raises CheckpointError when the path holds no weights or weights of another model.
    """
    file = _weight_file(Path(path).expanduser())
    config: dict[str, Any] = tower.pretrained_cfg  # type: ignore[assignment]
    state = read_state_dict(file)
    if in_chans != config["input_size"][0]:
        for layer in _names(config.get("first_conv")):
            if f"{layer}.weight" in state:
                state[f"{layer}.weight"] = _fold(in_chans, state[f"{layer}.weight"])
    load_state(tower, state, source=str(file), drop=_classifier_names(tower, config))


def geometry(config: dict[str, Any], size: int | None, channels: Literal[1, 3]) -> InputSpec:
    """How timm evaluates a model whose `pretrained_config` this is; size: of the crop, None for its own."""
    height, width = (size, size) if size is not None else config["input_size"][1:]
    scaled = (math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"]))
    return InputSpec(
        size=scaled,
        resize=_RESIZE_RULES[config["crop_mode"]],
        crop=(height, width),
        interpolation=config["interpolation"],
        channels=channels,
    )


def statistics(config: dict[str, Any], channels: int) -> Statistics:
    """Mean and standard deviation a channel of a model whose `pretrained_config` this is."""
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if channels == len(mean):
        return Statistics(mean, std)
    # One grey channel stands for all of them, so it is centred and scaled by their average.
    return Statistics((sum(mean) / len(mean),), (sum(std) / len(std),))


def _from_hub(name: str, config: dict[str, Any], in_chans: int, sized: dict[str, Any]) -> nn.Module:
    hub_id = config.get("hf_hub_id")
    if not hub_id and not config.get("url"):
        tagged = timm.list_pretrained(f"{split_model_name_tag(name)[0]}.*")
        choices = f"model.net.name={tagged[0]}, or " if tagged else ""
        raise CheckpointError(
            f"timm has no pretrained weights for {name}: {choices}model.net.pretrained=false, "
            "or model.net.pretrained=/path/to/file_or_dir"
        )
    try:
        tower: nn.Module = timm.create_model(name, pretrained=True, num_classes=0, in_chans=in_chans, **sized)
    except (OSError, HfHubHTTPError) as error:
        source = hub_id or config["url"]
        fetch = (
            f"\n  hf download {hub_id}                               (where there is a network)"
            if hub_id
            else ""
        )
        raise CheckpointError(
            f"the pretrained weights of {name} ({source}) are not here and could not be fetched. Type"
            f"{fetch}"
            "\n  model.net.pretrained=/path/to/file_or_dir          (a copy of them)"
            "\n  model.net.pretrained=false                         (random weights)"
        ) from error
    return tower


def _weight_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(
            f"model.net.pretrained={path} does not exist: give a weight file or its directory"
        )
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(
        f"the directory model.net.pretrained={path} holds neither "
        f"{' nor '.join(WEIGHT_FILES)}: name the weight file"
    )


def _classifier_names(tower: nn.Module, config: dict[str, Any]) -> set[str]:
    # timm declares the last layer only, while some towers lose more with it (LeViT its BatchNorm).
    with torch.device("meta"):
        whole = timm.create_model(config["architecture"], num_classes=1)
    return set(whole.state_dict()) - set(tower.state_dict())


def _fold(in_chans: int, weight: Tensor) -> Tensor:
    folded: Tensor = adapt_input_conv(in_chans, weight)
    return folded


def _names(entry: str | tuple[str, ...] | list[str] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)
