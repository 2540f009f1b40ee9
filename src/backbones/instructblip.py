"""InstructBLIP with a decoder-only language model, by hub id or from a directory.

A directory holds what the hub does: `config.json`, the weights, the files of tokenizer and processor, and
those of the Q-Former's tokenizer in `qformer_tokenizer/` (`tapetum tiny instructblip DIR` writes one). Files
are taken from the directory or the hub's cache, and fetched where they are in neither; no code of a
repository is ever run. Dai et al. 2023, and transformers' InstructBlipForConditionalGeneration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..errors import CheckpointError, ConfigError
from ..images.geometry import InputSpec, Interpolation
from ..images.normalize import CLIP, Statistics
from . import repository, whole_models
from .quantization import Quantization, quantization_config
from .repository import PROCESSOR_FILES, Kind, is_directory, on_the_hub, read_json
from .weights import building_on_meta
from .whole_models import VOCABULARIES, Dtype

if TYPE_CHECKING:
    from transformers import InstructBlipConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT = "Salesforce/instructblip-vicuna-7b"
QFORMER_TOKENIZER = "qformer_tokenizer"

_VICUNA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32064,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 32000,
}


def _published(text: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "instructblip",
        "image_token_index": 32001,
        "num_query_tokens": 32,
        "vision_config": {"model_type": "instructblip_vision_model"},  # transformers' own figures
        "qformer_config": {"model_type": "instructblip_qformer", "vocab_size": 30523},
        "text_config": {**_VICUNA, **text},
        "tie_word_embeddings": False,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "Salesforce/instructblip-vicuna-7b": _published(
        {
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        }
    ),
    "Salesforce/instructblip-vicuna-13b": _published(
        {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        }
    ),
}
"""The config.json of published models, so that their widths are known without a network."""

_WAVE = 7.0  # height of the waves of positions, in the deviations of which weights are drawn
_KIND = Kind("InstructBLIP", DEFAULT, "instructblip")
_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_WORD_LISTS = (*VOCABULARIES, "vocab.txt")


class Preprocessing(NamedTuple):
    """What an InstructBLIP's processor does to an image: geometry, then (pixels - mean) / std."""

    input_spec: InputSpec
    statistics: Statistics


def create(
    backbone: str = DEFAULT,
    *,
    pretrained: bool | str,
    dtype: Dtype = "float32",
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """transformers' InstructBlipForConditionalGeneration, in eval mode.

    backbone: a hub id, or a directory with the hub's files; its config is the architecture.
    pretrained: False for random weights, True for those of `backbone`, or the path of other weights of this
        architecture: a file, or a directory with one.
    quantization: of the language model alone, see `backbones.quantization`.
    Under `torch.device("meta")` the architecture is built and no weight is read.
    Raises ConfigError for what is no InstructBLIP, or one whose language model is an encoder-decoder, and
    CheckpointError where files are absent or do not fit.
    """
    from transformers import InstructBlipForConditionalGeneration

    config: Any = read_config(backbone)
    if pretrained is False:  # what transformers draws is so narrow that no image would be seen
        config.vision_config.initializer_range = max(0.02, config.vision_config.initializer_range)
    # Parts are built in the type that their configs name, not in the one that the whole is asked for.
    for part in (config.vision_config, config.qformer_config, config.text_config):
        part.dtype = dtype
    model: Any = whole_models.create(
        InstructBlipForConditionalGeneration,
        config,
        backbone,
        _KIND,
        pretrained=pretrained,
        dtype=dtype,
        quantization_config=quantization_config(
            quantization,
            dtype,
            pretrained=pretrained,
            keep=("vision_model", "qformer", "language_projection"),
        ),
    )
    if pretrained is False and not building_on_meta():
        open_eyes(model)
    found: PreTrainedModel = model
    return found


def open_eyes(model: nn.Module) -> None:
    """Draw what transformers leaves blind in a model without weights: positions of patches, and queries.

    Queries are zero there, and so would stay equal; positions are drawn like any weight, from which a small
    tower learns slowly where it looks. Here they are waves in both directions (Dosovitskiy et al. 2021, D.4).
    """
    whole: Any = model
    nn.init.normal_(whole.query_tokens)
    config, embeddings = whole.config.vision_config, whole.vision_model.embeddings
    places, count = embeddings.position_embedding, config.hidden_size // 4
    side = config.image_size // config.patch_size
    frequencies = 100.0 ** -(torch.arange(count) / count)
    along = torch.arange(side)[:, None] * frequencies
    rows, columns = along.repeat_interleave(side, 0), along.repeat(side, 1)
    waves = torch.cat([columns.sin(), columns.cos(), rows.sin(), rows.cos()], dim=1)
    with torch.no_grad():
        places[0, 1:, : 4 * count] = _WAVE * config.initializer_range * waves.to(places)


def read_config(backbone: str = DEFAULT) -> InstructBlipConfig:
    """The architecture: of the directory, the hub's cache, `PUBLISHED`, or fetched from the hub."""
    from transformers import InstructBlipConfig

    if not is_directory(backbone) and backbone.startswith("Salesforce/instructblip-flan-t5"):
        raise _encoder_decoder(backbone, "t5")
    file = repository.find(backbone, "config.json", _KIND)
    content = PUBLISHED.get(backbone) if file is None else None
    if content is None:
        file = file or repository.fetch(backbone, "config.json", _KIND)
        if file is None:
            raise ConfigError(f"model.net.backbone={backbone} is no InstructBLIP: it has no config.json")
        content = read_json(file)
    text = content.get("text_config")
    if content.get("model_type") != "instructblip" or not isinstance(text, dict):
        says = f"model_type={content.get('model_type')!r}"
        says += "" if isinstance(text, dict) else " and has no text_config"
        raise ConfigError(
            f"model.net.backbone={backbone} is no InstructBLIP: its config.json says {says}. Name one such "
            f"as {DEFAULT}, or a directory that tapetum tiny instructblip DIR has written"
        )
    config: Any = repository.parsed(InstructBlipConfig, content, backbone, _KIND)
    if not config.use_decoder_only_language_model:
        raise _encoder_decoder(backbone, config.text_config.model_type)
    image, words = config.image_token_id, config.text_config.vocab_size
    if image is None or not 0 <= image < words:
        raise ConfigError(
            f"the config.json of model.net.backbone={backbone} says image_token_index={image}, and the "
            f"language model embeds {words} tokens: it is of an older revision, or belongs to other weights. "
            f"For the published one type\n  hf download {DEFAULT}"
        )
    found: InstructBlipConfig = config
    return found


def tokenizers(backbone: str = DEFAULT) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """transformers' tokenizers of the language model and of the Q-Former.

    Raises CheckpointError where their files are absent, ConfigError where they belong to another model.
    """
    config: Any = read_config(backbone)
    text = whole_models.tokenizer(backbone, _KIND)
    question = whole_models.tokenizer(backbone, _KIND, QFORMER_TOKENIZER)
    known = text.get_vocab().get(str(getattr(text, "image_token", "<image>")))
    if known is not None and known != config.image_token_id:
        raise ConfigError(
            f"the tokenizer of model.net.backbone={backbone} has id {known} for the place of an image, and "
            f"its config.json says image_token_index={config.image_token_id}: they do not belong together; "
            "take both from one InstructBLIP"
        )
    for name, found, words in (
        ("tokenizer", text, config.text_config.vocab_size),
        (QFORMER_TOKENIZER, question, config.qformer_config.vocab_size),
    ):
        used = [found.bos_token_id, found.eos_token_id, found.pad_token_id, found.vocab_size - 1]
        highest = max(one for one in used if isinstance(one, int))
        if highest >= words:
            raise ConfigError(
                f"the {name} of model.net.backbone={backbone} has tokens up to id {highest}, and {words} are "
                "embedded: they do not belong together; take both from one InstructBLIP"
            )
    return text, question


def preprocessing(backbone: str = DEFAULT) -> Preprocessing:
    """Geometry and statistics of the processor's files; those that are published for `PUBLISHED` ids.

    Raises ConfigError for a processor that is absent, or that belongs to another model.
    """
    config: Any = read_config(backbone)
    found = _processor_files(backbone, fetch=backbone not in PUBLISHED)
    content: dict[str, Any] = {}
    for file in reversed(found):  # the newer layout's word counts
        content |= read_json(file)
    image = content.get("image_processor", content)
    side = _side(config.vision_config.image_size)
    if "image_mean" not in image and "size" not in image:
        if not found and backbone in PUBLISHED:
            return Preprocessing(InputSpec(side, "squash", interpolation="bicubic"), CLIP)
        raise ConfigError(
            f"model.net.backbone={backbone} does not say how images are prepared: neither "
            f"{' nor '.join(PROCESSOR_FILES)} does; copy those of the InstructBLIP it was made from"
        )
    _check_processor(content, image, config, backbone)
    return Preprocessing(
        InputSpec(side, "squash", interpolation=_RESAMPLING[image.get("resample", 3)]),
        Statistics(tuple(image.get("image_mean", CLIP.mean)), tuple(image.get("image_std", CLIP.std))),
    )


def can_read(backbone: str) -> bool:
    """Whether both tokenizers of an InstructBLIP are on this machine."""
    return all(whole_models.has_tokenizer(backbone, _KIND, folder) for folder in ("", QFORMER_TOKENIZER))


def check_weights(backbone: str, pretrained: bool | str) -> None:
    """Raise CheckpointError where a tokenizer, or weights that are wanted, are neither here nor on the hub.

    Nothing is read or fetched. Paths are looked at when the architecture is built.
    """
    whole_models.check_weights(backbone, _KIND, pretrained)
    names = [f"{QFORMER_TOKENIZER}/{one}" for one in _WORD_LISTS]
    if any(repository.find(backbone, name, _KIND) for name in names):
        return
    if is_directory(backbone) or not on_the_hub(backbone, _KIND) & {*names}:
        raise CheckpointError(f"model.net.backbone={backbone} holds none of {', '.join(names)}")


def copy_files(backbone: str, directory: Path) -> list[Path]:
    """See `whole_models.copy_files`; an InstructBLIP has a second tokenizer, for its Q-Former."""
    return whole_models.copy_files(backbone, _KIND, directory, ("vocab.txt",), ("", QFORMER_TOKENIZER))


# --- what the files say ---


def _processor_files(backbone: str, *, fetch: bool) -> list[Path]:
    for look in (repository.find, repository.fetch) if fetch else (repository.find,):
        if found := [file for name in PROCESSOR_FILES if (file := look(backbone, name, _KIND))]:
            return found
    return []


def _check_processor(
    content: Mapping[str, Any], image: Mapping[str, Any], config: Any, backbone: str
) -> None:
    problems = []
    side, queries = _side(config.vision_config.image_size), config.num_query_tokens
    if _side(image.get("size", side)) != side:
        problems.append(f"it makes images of {image['size']}, and the vision tower takes {side[0]}x{side[1]}")
    if content.get("num_query_tokens", queries) != queries:
        problems.append(
            f"it has num_query_tokens={content['num_query_tokens']}, and the Q-Former has {queries} queries"
        )
    if not image.get("do_resize", True) or image.get("do_center_crop", False):
        problems.append("it does something other than to resize images to a height and a width")
    if not image.get("do_normalize", True) or abs(image.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        problems.append("it does not normalise pixels of 0 to 1")
    if image.get("resample", 3) not in _RESAMPLING:
        problems.append(
            f"it resizes with Pillow's resample={image['resample']}: {sorted(_RESAMPLING)} are known"
        )
    if problems:
        raise ConfigError(
            f"the processor of model.net.backbone={backbone} does not belong to its model: "
            f"{'; '.join(problems)}. Copy the processor of the InstructBLIP that this one was made from"
        )


def _side(size: Any) -> tuple[int, int]:
    """(height, width) of a number, a pair, or a mapping of either."""
    if isinstance(size, Mapping):
        return int(size.get("height", 0)), int(size.get("width", 0))
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _encoder_decoder(backbone: str, kind: str) -> ConfigError:
    others = "".join(f"\n  model.net.backbone={name}" for name in PUBLISHED)
    return ConfigError(
        f"model.net.backbone={backbone} has an encoder-decoder for its language model ({kind}): answers here "
        f"continue a prompt, for which a decoder alone is needed; type one of{others}"
    )
