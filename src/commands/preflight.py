"""Phase 2 of the config check: what only the libraries, the hardware and the index can tell.

Nothing is decoded and no weight is read: the network is built on the meta device, the index from file names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..config.build import build as build_part
from ..config.check import check_imported
from ..config.joined import each, places
from ..datamodules.features import feature_problems, frozen_features
from ..errors import ConfigError, TapetumError
from ..images.geometry import with_geometry
from ..indexes.table import Index
from ..launch.world import cores, processes_here, world_size
from ..runs.building import build_index, build_network_on_meta, parameter_counts
from ..runs.gradual_unfreeze import unfreeze_problems
from ..runs.sharding import sharding_problems, trainer_settings
from ..tasks import task_of
from .trackers import tracker_problems
from .vocabulary import with_tokenizer_of_weights


@dataclass(frozen=True)
class Preflight:
    """What is known before a run starts.

    monitor: what chooses, None where nothing can. limits: what this run can't do, for the log and the report.
    """

    index: Index
    monitor: str | None
    limits: list[str]

    @classmethod
    def of(cls, config: Mapping[str, Any], index: Index) -> Preflight:
        """The limits that follow from the splits that there are."""
        monitor: str | None = config["train"]["monitor"]
        limits = []
        if config["model"]["fit"] and not len(index.rows("val")):
            monitor = None
            limits.append(
                f"There is no validation split ({_why_none(config)}): no best checkpoint is chosen, nothing "
                f"stops early, no threshold is fitted; the last weights are what is tested."
            )
        elif config["model"]["fit"] and config["trainer"].get("limit_val_batches") == 0:
            monitor = None
            limits.append(
                "Validation is switched off (trainer.limit_val_batches=0): no best checkpoint is chosen, "
                "nothing stops early, no threshold is fitted; the last weights are what is tested."
            )
        for split in ("val", "test"):
            limit = config["trainer"].get(f"limit_{split}_batches")
            whole = limit is None or (isinstance(limit, float) and limit == 1.0)
            if limit and not whole:
                limits.append(
                    f"Only a part of {split} was looked at (trainer.limit_{split}_batches={limit}): its "
                    f"figures are not those of the split."
                )
        if not len(index.rows("test")):
            limits.append("There is no test split: no figure is free of choices made on the same images.")
        return cls(index, monitor, limits)


def preflight(config: Mapping[str, Any]) -> Preflight:
    """Everything that can be known before an image is decoded; one ConfigError with all problems."""
    problems = hardware_problems(config["trainer"]) or trainer_problems(config["trainer"])
    problems += tracker_problems(config)
    problems += network_problems(config, weights=True)
    index: Index | None = None

    def build() -> None:
        nonlocal index
        index = build_index(config)

    problems += _problems_of(build)
    problems += _problems_of(lambda: with_tokenizer_of_weights(config))
    if index is not None:
        problems += index_problems(config, index)
    if problems or index is None:
        raise ConfigError(problems)
    if problems := task_of(config).fits(config, partial(build_network_on_meta, config), index):
        raise ConfigError(problems)
    return Preflight.of(config, index)


def network_problems(config: Mapping[str, Any], *, weights: bool = False) -> list[str]:
    """Arguments that a third party refuses, a network that can't be built, nothing to train.

    weights: also pretrained weights that are neither here nor to be had, where the network can tell.
    """
    problems = check_imported(config)
    if problems:
        return problems
    net: nn.Module | None = None

    def build() -> None:
        nonlocal net
        net = build_network_on_meta(config)
        with_geometry(net.input_spec, config["model"]["geometry"])  # type: ignore[arg-type]

    problems = _problems_of(build)
    if net is not None and config["model"]["fit"] and parameter_counts(net)[1] == 0:
        problems.append(
            "no parameter of model.net is trainable, so there is nothing to fit: unfreeze a part "
            f"({'model.net.language=lora' if hasattr(net, 'parts') else 'model.net.freeze=false'}), or "
            "evaluate it as it is with model.fit=false"
        )
    if net is not None:
        problems += size_problems(config, net)
        problems += generation_problems(config, net)
        problems += unfreeze_problems(config, net)
        problems += cache_problems(config, net)
        problems += sharding_problems(config, net, processes=world_size(config["trainer"]))
    look: Callable[[], None] | None = getattr(net, "check_weights", None)
    if weights and look is not None:
        problems += _problems_of(look)
    return problems


def size_problems(config: Mapping[str, Any], net: nn.Module) -> list[str]:
    """A geometry that the network can't take, where it tells."""
    look: Callable[[tuple[int, int] | None], None] | None = getattr(net, "check_size", None)
    if look is None:
        return []
    spec = with_geometry(net.input_spec, config["model"]["geometry"])  # type: ignore[arg-type]
    return _problems_of(lambda: look(spec.output_size))


def generation_problems(config: Mapping[str, Any], net: nn.Module) -> list[str]:
    """Ways of writing texts that are none, and texts longer than the network has room for."""
    node = config["model"].get("generation")
    if node is None:
        return []
    from ..backbones.generation import Generation

    problems = _problems_of(lambda: Generation(**node))
    look: Callable[[int], None] | None = getattr(net, "check_generation", None)
    if look is None or problems:
        return problems
    return _problems_of(lambda: look(Generation(**node).max_new_tokens))


def cache_problems(config: Mapping[str, Any], net: nn.Module) -> list[str]:
    """What is wrong with data.cache=features in a config, given its network on the meta device."""
    if config["data"].get("cache") != "features":
        return []
    augment = build_part(config["augment"], allow=config["allow_targets"])
    problems = feature_problems(net, augment)
    spec = with_geometry(net.input_spec, config["model"]["geometry"])  # type: ignore[arg-type]
    cut: Callable[[], None] | None = getattr(net, "check_cut", None)
    if not problems and cut is not None:
        problems += _problems_of(cut)
    elif not problems:
        size = spec.output_size or spec.size or (64, 64)
        images = torch.zeros((1, spec.channels, *size), dtype=torch.uint8, device="meta")
        # Of what a network of the user's own raises without pixels nothing follows; the build will tell.
        with suppress(NotImplementedError, RuntimeError):
            problems += _problems_of(lambda: frozen_features(net, images))  # type: ignore[arg-type]
    if config["train"]["compile"]:
        problems.append(
            "train.compile=true compiles the whole network, of which data.cache=features runs the upper part "
            "only: type train.compile=false, or data.cache=decoded"
        )
    if "fsdp" in str(config["trainer"].get("strategy")):
        problems.append(
            "data.cache=features runs parts of the network one by one, which trainer.strategy=fsdp2 does not "
            "allow: type accelerator=ddp, or data.cache=decoded"
        )
    return problems


def index_problems(config: Mapping[str, Any], index: Index) -> list[str]:
    """An empty training split, or a schedule that needs the validation split which there is not."""
    problems: list[str] = []
    if config["model"]["fit"] and not len(index.rows("train")):
        problems.append(
            f"the train split of {places(config)} is empty, so there is nothing to fit: give it "
            f"images (data.roots.train=DIR), or evaluate the model as it is with model.fit=false"
        )
    problems += task_of(config).problems(config, index)
    schedule = str((config["scheduler"] or {}).get("_target_", ""))
    follows = schedule.endswith((".ReduceLROnPlateau", ".plateau"))
    unseen = not len(index.rows("val")) or config["trainer"].get("limit_val_batches") == 0
    if config["model"]["fit"] and follows and unseen:
        problems.append(
            "scheduler=plateau follows a validation figure, and there is none: type scheduler=cosine, or "
            "data.val_fraction=0.1 (and no trainer.limit_val_batches=0)"
        )
    return problems


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """What Lightning's Trainer itself refuses, in its own words."""
    import lightning
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from ..launch.world import cluster_environment
    from .trainer_parts import quiet_lightning

    try:
        with quiet_lightning():
            settings = {**trainer_settings(trainer), "profiler": None}
            lightning.Trainer(**settings, logger=False, plugins=[cluster_environment()])
    except (MisconfigurationException, ValueError, TypeError, AttributeError) as error:
        return [f"trainer: {str(error).splitlines()[0]}"]
    return []


def hardware_problems(trainer: Mapping[str, Any]) -> list[str]:
    """Accelerators, device counts and precisions that this machine lacks."""
    problems: list[str] = []
    accelerator, devices, precision = trainer["accelerator"], trainer["devices"], str(trainer["precision"])
    cuda, apple = torch.cuda.device_count(), torch.backends.mps.is_available()
    on_cuda = accelerator in ("cuda", "gpu") or (accelerator == "auto" and cuda > 0)
    if on_cuda and cuda == 0:
        problems.append(
            "accelerator=gpu, but this machine has no CUDA device: type accelerator=auto or accelerator=cpu"
        )
    if accelerator == "mps" and not apple:
        problems.append(
            "accelerator=mps, but this machine has no Apple GPU: type accelerator=auto or accelerator=cpu"
        )
    if on_cuda and isinstance(devices, int) and devices > cuda > 0:
        problems.append(
            f"trainer.devices={devices}, but this machine has {cuda}: type trainer.devices={cuda}"
        )
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and cuda == 0 and not apple)
    # two at least, so that what two processes do can be tried anywhere
    if on_cpu and (asked := processes_here(trainer)) > (most := max(2, cores())):
        problems.append(
            f"trainer.devices={devices} on the CPU means {asked} processes, each with all libraries in "
            f"memory, but this machine has {cores()} cores: type trainer.devices={most} or less"
        )
    if on_cpu and precision.startswith("16"):
        problems.append(
            f"trainer.precision={precision} needs a GPU, and this run is on the CPU: type "
            f"trainer.precision=bf16-mixed or trainer.precision=32-true"
        )
    if on_cuda and cuda and precision.startswith("bf16") and not torch.cuda.is_bf16_supported(False):
        problems.append(
            f"trainer.precision={precision}, but {torch.cuda.get_device_name(0)} has no bfloat16: type "
            f"trainer.precision=16-mixed"
        )
    return problems


def _why_none(config: Mapping[str, Any]) -> str:
    """What left the validation split empty."""
    if any(one["data"]["val_fraction"] for one in each(config).values()):
        return "none on the disk, and none of so few images was set aside: data.val_fraction=0.2 takes more"
    return "data.val_fraction=0 and none on the disk"


def _problems_of(build: Callable[[], object]) -> list[str]:
    try:
        build()
    except ConfigError as error:
        return list(error.problems)
    except TapetumError as error:
        return [str(error)]
    return []
