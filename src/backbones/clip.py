"""Any Hugging Face CLIP, by hub id or from a directory: towers, projections, tokenizer, preprocessing.

A directory holds what the hub does: `config.json`, the weights, the tokenizer's and the processor's files
(`tapetum tiny clip DIR` writes one). Files are taken from the directory or the hub's cache, and fetched where
they are in neither; no code of a repository is ever run. Radford et al. 2021, and transformers' CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..images.geometry import InputSpec, Interpolation
from ..images.normalize import CLIP, Statistics
from . import repository
from .repository import PROCESSOR_FILES, Kind, is_directory, on_the_hub, read_json
from .weights import building_on_meta, load_state, read_state_dict, undrawn

if TYPE_CHECKING:
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

DEFAULT = "openai/clip-vit-base-patch32"

PUBLISHED: dict[str, dict[str, Any]] = {
    "openai/clip-vit-base-patch32": {
        "own": {"projection_dim": 512},
        "vision": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32},
        "text": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8},
    },
    "openai/clip-vit-base-patch16": {
        "own": {"projection_dim": 512},
        "vision": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16},
        "text": {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8},
    },
    "openai/clip-vit-large-patch14": {
        "own": {"projection_dim": 768},
        "vision": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
        "text": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    },
    "openai/clip-vit-large-patch14-336": {
        "own": {"projection_dim": 768},
        "vision": {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 336,
        },
        "text": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    },
}
"""The architectures of Radford et al. 2021 (table 20), so that they are known without a network."""

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)
_TOKENIZER = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_TEXT = ("text_model.", "text_projection.", "logit_scale")
# Buffers that older versions of transformers stored with the weights.
_POSITIONS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_KIND = Kind("CLIP", DEFAULT, "clip")

Module = TypeVar("Module", bound=nn.Module)


class Preprocessing(NamedTuple):
    """What a CLIP's processor does to an image: geometry, then (pixels - mean) / std."""

    input_spec: InputSpec
    statistics: Statistics


def create(backbone: str = DEFAULT, *, pretrained: bool | str) -> CLIPModel:
    """transformers' CLIPModel in float32: `vision_model`, `text_model`, both projections and `logit_scale`.

    backbone: a hub id, or a directory with the hub's files; its config is the architecture.
    pretrained: False for random weights, True for those of `backbone`, or the path of other weights of this
        architecture: a file, or a directory with one.
    Under `torch.device("meta")` the architecture is built and no weight is read.
    Raises ConfigError for what is no CLIP, CheckpointError where files are absent or do not fit.
    """
    from transformers import CLIPModel

    config: Any = read_config(backbone)
    # Sub-models are built in the type their config names, not in the one that the whole is asked for.
    for part in (config, config.text_config, config.vision_config):
        part.dtype = "float32"
    with undrawn(pretrained):
        model: CLIPModel = cast(Any, CLIPModel)._from_config(config, dtype=torch.float32)
    return _with_weights(model, backbone, pretrained, drop=_POSITIONS)


def create_vision(backbone: str = DEFAULT, *, pretrained: bool | str) -> CLIPVisionModelWithProjection:
    """The vision half of `create` alone, as transformers' CLIPVisionModelWithProjection in float32.

    Normalised float [B, 3, H, W] -> an object whose `image_embeds` [B, projection_dim] are what OpenAI's
    `encode_image` returns. Weights have the names of CLIPModel: `vision_model.…`, `visual_projection.weight`.
    """
    from transformers import CLIPVisionModelWithProjection

    whole: Any = read_config(backbone)
    config = whole.vision_config
    config.projection_dim = whole.projection_dim  # that of the vision config itself is often left at 512
    config.dtype = "float32"
    with undrawn(pretrained):
        model: CLIPVisionModelWithProjection = cast(Any, CLIPVisionModelWithProjection)._from_config(
            config, dtype=torch.float32
        )
    return _with_weights(model, backbone, pretrained, drop=(*_POSITIONS, *_TEXT))


def read_config(backbone: str = DEFAULT) -> CLIPConfig:
    """The architecture: of the directory, the hub's cache, `PUBLISHED`, or fetched from the hub."""
    from transformers import CLIPConfig

    file = _find(backbone, "config.json")
    if file is None and backbone in PUBLISHED:
        return _published_config(backbone)
    file = file or _fetch(backbone, "config.json")
    if file is None:
        raise ConfigError(f"model.net.backbone={backbone} is no CLIP: it has no config.json")
    content = read_json(file)
    if content.get("model_type") != "clip":
        raise ConfigError(
            f"model.net.backbone={backbone} is no CLIP: its config.json says "
            f"model_type={content.get('model_type')!r}, not 'clip'. Name a CLIP such as {DEFAULT}, or a "
            f"directory that tapetum tiny clip DIR has written"
        )
    config: CLIPConfig = repository.parsed(CLIPConfig, content, backbone, _KIND)
    return config


def preprocessing(backbone: str = DEFAULT) -> Preprocessing:
    """Geometry and statistics of the processor's file; those that are published for `PUBLISHED` ids.

    Raises ConfigError for a processor that does something tapetum's geometry has no word for.
    """
    found = [file for name in PROCESSOR_FILES if (file := _find(backbone, name))]
    if not found and backbone in PUBLISHED:
        side = PUBLISHED[backbone]["vision"].get("image_size", 224)
        return Preprocessing(InputSpec((side, side), "shortest", (side, side), "bicubic"), CLIP)
    if not found:
        found = [file for name in PROCESSOR_FILES if (file := _fetch(backbone, name))][:1]
    if not found:
        raise ConfigError(
            f"model.net.backbone={backbone} does not say how images are prepared: it has neither "
            f"{' nor '.join(PROCESSOR_FILES)}; copy that of the CLIP it was made from"
        )
    content = read_json(found[0])
    return _preprocessing(content.get("image_processor", content), found[0])


def tokenizer(backbone: str = DEFAULT) -> CLIPTokenizer:
    """transformers' CLIPTokenizer of a CLIP; CheckpointError where its files are absent."""
    from transformers import CLIPTokenizer

    files = [file for name in _TOKENIZER if (file := _find(backbone, name))]
    if not any(file.name in ("tokenizer.json", "vocab.json") for file in files):
        files = [file for name in _TOKENIZER if (file := _fetch(backbone, name))]
    names = {file.name for file in files}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise CheckpointError(
            f"model.net.backbone={backbone} has no tokenizer: neither tokenizer.json, nor vocab.json with "
            f"merges.txt; copy those of the CLIP it was made from"
        )
    try:
        found: CLIPTokenizer = CLIPTokenizer.from_pretrained(files[0].parent, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"the tokenizer in {files[0].parent} cannot be read: {error}") from error
    return found


def check_weights(backbone: str, pretrained: bool | str, *, text: bool = False) -> None:
    """Raise CheckpointError where weights (and with `text` a tokenizer) are neither here nor on the hub.

    Nothing is read or fetched. Paths are looked at when the architecture is built.
    """
    wanted = [(*_WEIGHTS, *_INDEXES)] if pretrained is True else []
    wanted += [("tokenizer.json", "vocab.json")] if text else []
    for names in wanted:
        here = any(_find(backbone, name) for name in names)
        if not here and not is_directory(backbone) and not on_the_hub(backbone, _KIND) & {*names}:
            raise CheckpointError(
                f"model.net.backbone={backbone} holds none of {', '.join(names)} on the hub"
            )


# --- weights ---


def _with_weights(model: Module, backbone: str, pretrained: bool | str, drop: Sequence[str]) -> Module:
    if pretrained is False:
        return model
    source = backbone if pretrained is True else str(Path(pretrained).expanduser())
    if pretrained is not True and not Path(source).exists():
        raise CheckpointError(
            f"model.net.pretrained={pretrained} does not exist: give a weight file, a directory with "
            f"{' or '.join(_WEIGHTS)}, true (the weights of model.net.backbone) or false (random ones)"
        )
    if building_on_meta():
        if Path(source).expanduser().exists():
            _weight_files(source)  # a directory without any is known now, those of the hub when they are read
        return model
    state: dict[str, Tensor] = {}
    for file in _weight_files(source):
        state |= read_state_dict(file)
    load_state(model, state, source=source, drop=drop)
    return model


def _weight_files(source: str) -> list[Path]:
    """One file, or the parts that an index lists."""
    if Path(source).is_file():
        return [Path(source)]
    for look in (_find, _fetch):
        for name in (*_WEIGHTS, *_INDEXES):
            file = look(source, name)
            if file is None:
                continue
            if name not in _INDEXES:
                return [file]
            parts = sorted(set(read_json(file).get("weight_map", {}).values()))
            return [part for one in parts if (part := _find(source, one) or _fetch(source, one))]
    raise CheckpointError(
        f"{source} holds no weights: neither {' nor '.join(_WEIGHTS)}. For random ones type "
        f"model.net.pretrained=false"
    )


# --- files ---


def _find(backbone: str, name: str) -> Path | None:
    return repository.find(backbone, name, _KIND)


def _fetch(backbone: str, name: str) -> Path | None:
    return repository.fetch(backbone, name, _KIND)


# --- what the files say ---


def _published_config(backbone: str) -> CLIPConfig:
    from transformers import CLIPConfig

    figures = PUBLISHED[backbone]
    sized = {
        tower: {**figures[tower], "intermediate_size": 4 * figures[tower]["hidden_size"]}
        for tower in ("vision", "text")
    }
    # As in the published files: a text tower of id 2 takes the feature at the highest token id.
    sized["text"] |= {"bos_token_id": 0, "eos_token_id": 2}
    return CLIPConfig(vision_config=sized["vision"], text_config=sized["text"], **figures["own"])


def _preprocessing(content: Mapping[str, Any], file: Path) -> Preprocessing:
    rescale = content.get("rescale_factor", 1 / 255)
    if not content.get("do_normalize", True) or abs(rescale - 1 / 255) > 1e-9:
        raise ConfigError(f"{file} does not normalise pixels of 0 to 1: such a CLIP is not supported")
    statistics = Statistics(
        tuple(content.get("image_mean", CLIP.mean)), tuple(content.get("image_std", CLIP.std))
    )
    crop = _sides(content.get("crop_size", 224), file) if content.get("do_center_crop", True) else None
    if not content.get("do_resize", True):
        return Preprocessing(InputSpec(None, "none", crop), statistics)
    size = content.get("size", 224)
    resampling = content.get("resample", 3)
    if resampling not in _RESAMPLING:
        raise ConfigError(
            f"{file} resizes with Pillow's resample={resampling}: {sorted(_RESAMPLING)} are known"
        )
    shortest = isinstance(size, int) or "shortest_edge" in size
    return Preprocessing(
        InputSpec(
            size=_sides(size["shortest_edge"] if shortest and not isinstance(size, int) else size, file),
            resize="shortest" if shortest else "squash",
            crop=crop,
            interpolation=_RESAMPLING[resampling],
        ),
        statistics,
    )


def _sides(size: Any, file: Path) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    raise ConfigError(f"{file} names a size {size!r} that is neither a number nor a height and a width")
