"""Low-rank adapters in a frozen network, by PEFT: LoRA, DoRA, rsLoRA.

Hu et al. 2021, Liu et al. 2024, Kalajdzievski 2023; the implementation is Hugging Face's peft.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor, nn

from ..errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel

Variant = Literal["lora", "dora", "rslora"]

_ADAPTER = "default"


class Trained(NamedTuple):
    """A row of the table of what trains: modules of one name, how many there are, parameters in all."""

    name: str
    modules: int
    parameters: int


def adapt(
    model: nn.Module,
    *,
    targets: Sequence[str],
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.05,
    variant: Variant = "lora",
    layers: Sequence[int] | None = None,
    pattern: str = "layers",
    name: str = "",
    within: str = "",
    saved: Sequence[str] = (),
) -> PeftModel:
    """`model`, frozen, with an adapter at every linear layer whose name ends in one of `targets`.

    The model is changed in place and stands inside what is returned, PEFT's own wrapper. A fresh adapter
    changes nothing that the network computes.

    rank, alpha: A [rank, in] and B [out, rank] add B A times alpha / rank (rsLoRA: alpha / sqrt(rank)).
    dropout: share of the adapter's inputs that is dropped in training.
    layers: numbers of the blocks that get adapters, as they stand behind `pattern` in names; None for all.
    name: hub id or directory of the weights, which the PEFT directory names.
    within: dotted name of the part of which alone layers get adapters; the whole model where it is empty.
    saved: dotted names of modules that train as a whole and are kept in the PEFT directory.
    Activations must not be recomputed yet: PEFT would have every frozen tower build a graph for it.
    Raises ConfigError for targets that match nothing, or nothing inside `within`, with those that there are.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ConfigError(f"model.net.rank={rank} is no rank: 1 or more, 8 is usual")
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.net.dropout={dropout} is no share of the inputs: 0 to below 1")
    _check_targets(model, targets, layers, pattern, within)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    there = dict(model.named_modules())
    assert all(part in there for part in saved), saved
    inside = _expression(targets, layers, pattern, within) if within else None
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # a number that it divides
        lora_dropout=dropout,
        target_modules=inside or list(targets),
        layers_to_transform=None if layers is None or inside else list(layers),
        layers_pattern=None if layers is None or inside else pattern,
        modules_to_save=list(saved) or None,
        use_dora=variant == "dora",
        use_rslora=variant == "rslora",
    )
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = get_peft_model(model, config)
    config.base_model_name_or_path = name  # PEFT itself takes what from_pretrained was called with
    return adapted


def merged(model: PeftModel) -> nn.Module:
    """The network without adapters that computes the same: updates are added to the weights, in place."""
    plain: nn.Module = model.merge_and_unload()
    return plain


def keep_base_in_eval(model: nn.Module) -> None:
    """Put everything but adapters and saved modules in `eval()`, after `train()` has reached every child."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    training = model.training
    model.eval()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            module.training = training
            for name, child in module.named_children():
                if name not in ("base_layer", "original_module"):
                    child.train(training)


def trained(model: nn.Module) -> list[Trained]:
    """A table of what trains, a row for each kind of adapted or saved module, in the order of the network."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    counts: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    for name, module in model.named_modules():
        layer: nn.Module = module
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            kind = name.rpartition(".")[2]
            counts[kind] += 1
            parameters[kind] += sum(value.numel() for value in layer.parameters() if value.requires_grad)
    return [Trained(kind, count, parameters[kind]) for kind, count in counts.items()]


# --- the directory that PEFT reads ---


def description(model: PeftModel, prefix: str) -> dict[str, Any]:
    """Plain data with which a checkpoint's weights become a PEFT directory: PEFT's config and its names.

    prefix: what stands before the PEFT model's names in the checkpoint.
    """
    from peft import get_peft_model_state_dict

    config = model.peft_config[_ADAPTER].to_dict() | {"inference_mode": True}
    state = model.state_dict(keep_vars=True)
    own = {id(value): name for name, value in state.items()}
    theirs: dict[str, Tensor] = get_peft_model_state_dict(
        model, state_dict=state, save_embedding_layers=False
    )
    names = {f"{prefix}{own[id(value)]}": name for name, value in theirs.items()}
    return {"config": json.loads(json.dumps(config, default=_plain)), "names": names}


def write_directory(directory: Path, described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """`adapter_config.json` and `adapter_model.safetensors` of a `description` and a state dict."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    state = {name: weights[own].detach().cpu().contiguous() for own, name in described["names"].items()}
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    text = json.dumps(described["config"], indent=2, sort_keys=True)
    (directory / "adapter_config.json").write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    """PEFT's configs hold sets and enums."""
    return sorted(value) if isinstance(value, (set, frozenset)) else str(getattr(value, "value", value))


_PARTS = {
    "vision_model": "the vision tower",
    "visual": "the vision tower",
    "qformer": "the Q-Former",
    "language_projection": "the projector",
    "language_model": "the language model",
}
"""Parts of vision-language models, as errors name them."""


def _expression(targets: Sequence[str], layers: Sequence[int] | None, pattern: str, within: str) -> str:
    """What PEFT matches whole names with."""
    numbers = "" if layers is None else rf"{re.escape(pattern)}\.(?:{'|'.join(map(str, layers))})\.(?:.*\.)?"
    return rf"{re.escape(within)}\.(?:.*\.)?{numbers}(?:{'|'.join(map(re.escape, targets))})"


def _check_targets(
    model: nn.Module, targets: Sequence[str], layers: Sequence[int] | None, pattern: str, within: str
) -> None:
    from transformers.pytorch_utils import Conv1D  # GPT-2's name for a linear layer

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    inside = [
        name
        for name in linear
        if (not within or name.startswith(f"{within}."))
        and (layers is None or any(f".{pattern}.{layer}." in f".{name}" for layer in layers))
    ]
    kinds = Counter(name.rpartition(".")[2] for name in inside)
    there = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
    where = "" if layers is None else " in those blocks"
    if not targets:
        raise ConfigError(f"model.net.target_modules is empty: name some of {there}")
    for target in targets:
        if any(f".{name}".endswith(f".{target}") for name in inside):
            continue
        outside = [
            name for name in linear if not name.startswith(f"{within}.") and f".{name}".endswith(f".{target}")
        ]
        if within and outside:
            raise ConfigError(
                f"model.net.target_modules has {target!r}, which is in {_part(outside[0], within)}, and "
                f"adapters are for {_part(within, within)}: there are {there}"
            )
        raise ConfigError(
            f"model.net.target_modules has {target!r}, which is the end of no linear layer's name{where}"
            f"{did_you_mean(target, kinds)}{'' if did_you_mean(target, kinds) else ':'} there are {there}"
        )


def _part(name: str, within: str) -> str:
    """What the part is called that a name is in: up to where it leaves the way to `within`."""
    depth = within.count(".") + 1
    part = name.split(".")[:depth]
    return _PARTS.get(part[-1], ".".join(part))
