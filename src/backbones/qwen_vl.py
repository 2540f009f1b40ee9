"""The vision tower of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, by hub id or from a directory.

A directory holds what the hub does (`tapetum tiny qwen_vl DIR` writes one). The language model is not read:
of a model in parts only the parts with something of the tower are opened, of a file only its tensors. No code
of a repository is ever run. Wang et al. 2024 (Qwen2-VL), Bai et al. 2025 (Qwen2.5-VL, Qwen3-VL), and
transformers' classes of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..images.geometry import Interpolation
from ..images.normalize import CLIP, Statistics
from . import repository
from .repository import PROCESSOR_FILES, Kind, is_directory, on_the_hub, read_json
from .weights import building_on_meta, has_values, load_state, read_state_dict, undrawn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

DEFAULT = "Qwen/Qwen2-VL-2B-Instruct"

_QWEN2 = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
_QWEN2_5 = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_QWEN3 = {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304}
_QWEN3_SMALL = {**_QWEN3, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096}
_QWEN3_LARGE = {**_QWEN3, "depth": 27, "hidden_size": 1152, "intermediate_size": 4304}

PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen2-VL-2B-Instruct": ("qwen2_vl", {**_QWEN2, "hidden_size": 1536}),
    "Qwen/Qwen2-VL-7B-Instruct": ("qwen2_vl", {**_QWEN2, "hidden_size": 3584}),
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", {**_QWEN2_5, "out_hidden_size": 2048}),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", {**_QWEN2_5, "out_hidden_size": 3584}),
    "Qwen/Qwen3-VL-2B-Instruct": ("qwen3_vl", {**_QWEN3_SMALL, "out_hidden_size": 2048}),
    "Qwen/Qwen3-VL-4B-Instruct": ("qwen3_vl", {**_QWEN3_SMALL, "out_hidden_size": 2560}),
    "Qwen/Qwen3-VL-8B-Instruct": ("qwen3_vl", {**_QWEN3_LARGE, "out_hidden_size": 4096}),
}
"""Model type and vision tower of the published files, so that they are known without a network."""

_HALF = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PUBLISHED_STATISTICS = {"qwen2_vl": CLIP, "qwen2_5_vl": CLIP, "qwen3_vl": _HALF}

_KIND = Kind("Qwen-VL", DEFAULT, "qwen_vl")
_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_PREFIXES = ("visual.", "model.visual.")  # as published, and as transformers 5 names it
_FIRST = "patch_embed.proj.weight"
_DEEPSTACK = "deepstack_merger_list."
_RESAMPLING: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class Preprocessing(NamedTuple):
    """What a Qwen-VL's processor does before it cuts an image up: resize, then (pixels - mean) / std."""

    interpolation: Interpolation
    statistics: Statistics


def create_vision(backbone: str = DEFAULT, *, pretrained: bool | str) -> nn.Module:
    """transformers' vision tower of a Qwen-VL in float32; `encode` runs it, `width` is that of its tokens.

    backbone: a hub id, or a directory with the hub's files; its config is the architecture.
    pretrained: False for random weights, True for those of `backbone`, or the path of other weights of this
        architecture: a file, or a directory with one.
    Qwen3-VL's deepstack mergers are left out: their outputs go into layers of the language model alone.
    Under `torch.device("meta")` the architecture is built and no weight is read.
    Raises ConfigError for what is no Qwen-VL, CheckpointError where files are absent or do not fit.
    """
    config: Any = read_config(backbone)
    config.dtype = "float32"
    with undrawn(pretrained):
        tower: nn.Module = _tower_class(config)._from_config(config, dtype=torch.float32)
    return _with_weights(tower, backbone, pretrained)


def read_config(backbone: str = DEFAULT) -> PreTrainedConfig:
    """The vision tower's architecture: of the directory, the hub's cache, `PUBLISHED`, or fetched."""
    model_type, figures = _described(backbone)
    figures = {name: value for name, value in figures.items() if name != "model_type"}  # often the whole's
    if model_type == "qwen3_vl":
        figures["deepstack_visual_indexes"] = []
    config: PreTrainedConfig = repository.parsed(_config_class(model_type), figures, backbone, _KIND)
    return config


def preprocessing(backbone: str = DEFAULT) -> Preprocessing:
    """Interpolation and statistics of the processor's file; those that are published for `PUBLISHED` ids.

    Raises ConfigError for a processor that is absent, that cuts images up for another tower, or that does
    something tapetum's geometry has no word for.
    """
    config = read_config(backbone)
    found = [file for name in PROCESSOR_FILES if (file := _find(backbone, name))]
    if not found and backbone in PUBLISHED:
        return Preprocessing("bicubic", _PUBLISHED_STATISTICS[PUBLISHED[backbone][0]])
    if not found:
        found = [file for name in PROCESSOR_FILES if (file := _fetch(backbone, name))][:1]
    if not found:
        raise ConfigError(
            f"model.net.backbone={backbone} does not say how images are prepared: it has neither "
            f"{' nor '.join(PROCESSOR_FILES)}; copy that of the Qwen-VL it was made from"
        )
    content = read_json(found[0])
    return _preprocessing(content.get("image_processor", content), found[0], config)


def check_weights(backbone: str, pretrained: bool | str) -> None:
    """Raise CheckpointError where the weights of a backbone are neither here nor on the hub.

    Nothing is read or fetched. Paths are looked at when the architecture is built.
    """
    if pretrained is not True or is_directory(backbone):
        return
    names = {_WEIGHTS, _INDEX}
    if not any(_find(backbone, name) for name in names) and not on_the_hub(backbone, _KIND) & names:
        raise CheckpointError(f"model.net.backbone={backbone} holds neither {_WEIGHTS} nor {_INDEX}")


# --- running the tower ---


def encode(tower: nn.Module, images: Tensor) -> Tensor:
    """Normalised float images [B, 3, H, W] -> merged tokens [B, N, width(tower)], N = H/unit * W/unit.

    They are what transformers hands to the language model in place of an image's tokens. Behind them, in the
    last axis, stand the outputs of deepstack mergers, where the tower has them: [B, N, (1 + L) * width].
    Raises ConfigError for sides that are no multiple of `unit(tower)`.
    """
    config: Any = tower.config
    count, _, height, width_ = images.shape
    rows, columns = token_grid(config, height, width_)
    levels = len(getattr(config, "deepstack_visual_indexes", ()))
    grid = [1, height // config.patch_size, width_ // config.patch_size]
    thw = torch.tensor([grid] * count, device=images.device)
    found = patches(images, config)
    given = {} if has_values(images) else _read_inside(len(found), config, images.device)
    out = tower(found, grid_thw=thw, **given)
    parts = [out.pooler_output, *(out.deepstack_features if levels else ())]
    return torch.cat([part.view(count, rows * columns, -1) for part in parts], dim=-1)


def token_grid(config: Any, height: int, width_: int) -> tuple[int, int]:
    """Rows and columns of an image's tokens; config: of the vision tower.

    Raises ConfigError for sides in pixels that are no multiple of a token's.
    """
    step = config.patch_size * config.spatial_merge_size
    if not height or not width_ or height % step or width_ % step:
        raise ConfigError(
            f"this Qwen-VL takes images whose sides are multiples of {step} pixels ({config.patch_size} a "
            f"patch, {config.spatial_merge_size} patches a token), not {height}x{width_}: type "
            f"model.geometry.size=[{_nearest(height, step)},{_nearest(width_, step)}]"
        )
    return height // step, width_ // step


def patches(images: Tensor, config: Any) -> Tensor:
    """Images [B, C, H, W] -> [B * H/p * W/p, C * t * p * p], in the order of Qwen-VL's image processor.

    config: of the vision tower: p is its patch_size, t its temporal_patch_size (an image is a film of t equal
    frames). Patches that are merged into one token follow one another; tokens go row by row.
    """
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    count, channels, height, width_ = images.shape
    rows, columns = height // (patch * merge), width_ // (patch * merge)
    cut = images.reshape(count, channels, rows, merge, patch, columns, merge, patch)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # [B, rows, columns, merge, merge, C, p, p]
    cut = cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1)
    return cut.reshape(count * rows * columns * merge * merge, channels * frames * patch * patch)


def _read_inside(count: int, config: Any, device: torch.device) -> dict[str, Any]:
    """What the tower reads from its grid, for `count` patches of images without values (`runs.memory`).

    All patches see each other: the attention that is used keeps no scores, so that windows and images take
    the same memory. Its bounds are NumPy's, which have values where tensors have none.
    """
    bounds = np.array([0, count], np.int32)
    given: dict[str, Any] = {
        "position_ids": torch.zeros(count, 2, dtype=torch.long, device=device),
        "cu_seqlens": bounds,
    }
    if hasattr(config, "window_size"):  # Qwen2.5-VL
        tokens = torch.arange(count // config.spatial_merge_size**2, device=device)
        given |= {"window_index": tokens, "cu_window_seqlens": bounds}
    if hasattr(config, "num_position_embeddings"):  # Qwen3-VL: of four learnt places the mean
        places = torch.zeros(count, 4, dtype=torch.long, device=device)
        given |= {"interp_indices": places, "interp_weights": torch.zeros(count, 4, device=device)}
    return given


def width(tower: nn.Module) -> int:
    """Length of the tower's merged tokens."""
    config: Any = tower.config
    # In Qwen2-VL `hidden_size` is that of the language model; later ones call it what it is.
    return int(getattr(config, "out_hidden_size", config.hidden_size))


def unit(tower: nn.Module) -> int:
    """Pixels of the side of the square that becomes one token."""
    config: Any = tower.config
    return int(config.patch_size * config.spatial_merge_size)


def _nearest(side: int, step: int) -> int:
    return max(1, round(side / step)) * step


# --- weights ---


def _with_weights(tower: nn.Module, backbone: str, pretrained: bool | str) -> nn.Module:
    if pretrained is False:
        return tower
    source = backbone if pretrained is True else str(Path(pretrained).expanduser())
    if pretrained is not True and not Path(source).exists():
        raise CheckpointError(
            f"model.net.pretrained={pretrained} does not exist: give a weight file, a directory with "
            f"{_WEIGHTS}, true (the weights of model.net.backbone) or false (random ones)"
        )
    if building_on_meta():
        if Path(source).expanduser().exists():
            _weight_files(source)  # a directory without any is known now, those of the hub when they are read
        return tower
    state: dict[str, Tensor] = {}
    for file in _weight_files(source):
        state |= _vision_tensors(file)
    load_state(tower, state, source=source, drop=(_DEEPSTACK,))
    return tower


def _weight_files(source: str) -> list[Path]:
    """One file, or of the parts that an index lists those with something of the vision tower."""
    if Path(source).is_file():
        return [Path(source)]
    for look in (_find, _fetch):
        if file := look(source, _WEIGHTS):
            return [file]
        if file := look(source, _INDEX):
            listed: Mapping[str, str] = read_json(file).get("weight_map", {})
            parts = sorted({part for name, part in listed.items() if name.startswith(_PREFIXES)})
            if not parts:
                raise _no_tower(file, listed)
            return [_part(source, name, file) for name in parts]
    raise CheckpointError(
        f"{source} holds no weights: neither {_WEIGHTS} nor {_INDEX}. For random ones type "
        f"model.net.pretrained=false"
    )


def _part(source: str, name: str, index: Path) -> Path:
    found = _find(source, name) or _fetch(source, name)
    if found is None:
        raise CheckpointError(f"{index} lists {name}, which is not there: the copy is not complete")
    return found


def _vision_tensors(file: Path) -> dict[str, Tensor]:
    """The tower's tensors of a file, by their names in the tower; what else is in it stays on the disk."""
    if file.suffix != ".safetensors":
        whole = read_state_dict(file)
        return {name: whole[full] for name, full in _tower_names(file, list(whole)).items()}
    try:
        with safe_open(file, framework="pt") as opened:
            names = _tower_names(file, list(opened.keys()))
            return {name: opened.get_tensor(full) for name, full in names.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or not a weight file: {error}") from error


def _tower_names(file: Path, names: list[str]) -> dict[str, str]:
    """Name in the tower -> name in the file; a file may hold the tower alone."""
    if _FIRST in names:
        return {name: name for name in names}
    found = {
        name.removeprefix(prefix): name for prefix in _PREFIXES for name in names if name.startswith(prefix)
    }
    if not found:
        raise _no_tower(file, names)
    return found


def _no_tower(file: Path, names: Mapping[str, str] | list[str]) -> CheckpointError:
    there = ", ".join(list(names)[:3]) or "nothing"
    return CheckpointError(
        f"{file} holds no vision tower: no name in it begins with {' or '.join(_PREFIXES)} (there are "
        f"{there}). Give the weights of a Qwen-VL, not of a language model"
    )


# --- files ---


def _find(backbone: str, name: str) -> Path | None:
    return repository.find(backbone, name, _KIND)


def _fetch(backbone: str, name: str) -> Path | None:
    return repository.fetch(backbone, name, _KIND)


# --- what the files say ---


def _described(backbone: str) -> tuple[str, dict[str, Any]]:
    """Model type and the figures of the vision tower."""
    if backbone.startswith("Qwen/Qwen-VL"):
        raise _superseded(backbone)
    file = _find(backbone, "config.json")
    if file is None and backbone in PUBLISHED:
        return PUBLISHED[backbone]
    file = file or _fetch(backbone, "config.json")
    if file is None:
        raise ConfigError(f"model.net.backbone={backbone} is no Qwen-VL: it has no config.json")
    content = read_json(file)
    model_type, vision = content.get("model_type"), content.get("vision_config")
    if model_type == "qwen" and "visual" in content:
        raise _superseded(backbone)
    if model_type not in _PUBLISHED_STATISTICS or not isinstance(vision, dict):
        raise ConfigError(
            f"model.net.backbone={backbone} is no Qwen-VL: its config.json says model_type={model_type!r}"
            f"{'' if isinstance(vision, dict) else ' and has no vision_config'}, and "
            f"{', '.join(_PUBLISHED_STATISTICS)} are known. Name one such as {DEFAULT}, or a directory that "
            f"tapetum tiny qwen_vl DIR has written"
        )
    return model_type, vision


def _superseded(backbone: str) -> ConfigError:
    return ConfigError(
        f"model.net.backbone={backbone} is the first Qwen-VL, of 2023: it works only by running the code in "
        f"its repository (trust_remote_code), which tapetum never does. Its successors are Qwen2-VL, "
        f"Qwen2.5-VL and Qwen3-VL; type one of\n"
        f"  model.net.backbone=Qwen/Qwen2-VL-2B-Instruct        (or -7B-)\n"
        f"  model.net.backbone=Qwen/Qwen2.5-VL-3B-Instruct      (or -7B-)\n"
        f"  model.net.backbone=Qwen/Qwen3-VL-2B-Instruct        (or -4B-, -8B-)"
    )


def _config_class(model_type: str) -> Any:
    from transformers import Qwen2_5_VLVisionConfig, Qwen2VLVisionConfig, Qwen3VLVisionConfig

    return {
        "qwen2_vl": Qwen2VLVisionConfig,
        "qwen2_5_vl": Qwen2_5_VLVisionConfig,
        "qwen3_vl": Qwen3VLVisionConfig,
    }[model_type]


def _tower_class(config: PreTrainedConfig) -> Any:
    from transformers import Qwen2_5_VisionTransformerPretrainedModel, Qwen3VLVisionModel
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    towers = {
        "qwen2_vl": Qwen2VisionTransformerPretrainedModel,
        "qwen2_5_vl": Qwen2_5_VisionTransformerPretrainedModel,
        "qwen3_vl": Qwen3VLVisionModel,
    }
    return next(tower for name, tower in towers.items() if isinstance(config, _config_class(name)))


def _preprocessing(content: Mapping[str, Any], file: Path, config: Any) -> Preprocessing:
    for ours, theirs in (
        ("patch_size", "patch_size"),
        ("spatial_merge_size", "merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ):
        wanted = getattr(config, ours)
        if content.get(theirs, wanted) != wanted:
            raise ConfigError(
                f"{file} belongs to another model: its {theirs} is {content[theirs]}, that of the vision "
                f"tower {wanted}; copy the file of the Qwen-VL that this one was made from"
            )
    if not content.get("do_normalize", True) or abs(content.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise ConfigError(f"{file} does not normalise pixels of 0 to 1: such a Qwen-VL is not supported")
    resampling = content.get("resample", 3)
    if resampling not in _RESAMPLING:
        raise ConfigError(
            f"{file} resizes with Pillow's resample={resampling}: {sorted(_RESAMPLING)} are known"
        )
    mean, std = content.get("image_mean", CLIP.mean), content.get("image_std", CLIP.std)
    return Preprocessing(_RESAMPLING[resampling], Statistics(tuple(mean), tuple(std)))
