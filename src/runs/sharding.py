"""`trainer.strategy=fsdp2`: weights, gradients and optimizer states shared among processes, block by block.

What leaves a run is whole: `best.ckpt` is one file like any other. `last.ckpt`, which is written most often
and only resumed from, has its tensors in shards beside it, written by all processes at once.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import tensor as distributed_tensor
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from .building import build_network
from .checkpoints import not_written, read_checkpoint
from .shards import is_sharded, read_shards, write_shards

NAME = "fsdp2"
"""How `trainer.strategy` calls it; Lightning has no name for it."""

_PRECISIONS = ("32-true", "bf16-mixed")
_HOLDS_WEIGHTS = ("Averaging", ".EMA", ".GradualUnfreeze")
"""Ends of the `_target_` of callbacks that copy weights, or take hold of them before they are sharded."""


class FullySharded(ModelParallelStrategy):
    """FSDP2 over all processes: each holds a part of every tensor, and gathers a block when it runs.

    The module says when to shard, from its `configure_model`. In precision bf16-mixed the network is gathered
    and computed in bfloat16, and gradients are averaged in float32. While validating, each process holds all
    weights.
    """

    def __init__(self, timeout: timedelta) -> None:
        super().__init__(tensor_parallel_size=1, timeout=timeout)
        self._blocks: list[FSDPModule] = []
        self._roots: list[FSDPModule] = []

    def setup_environment(self) -> None:
        """Lightning's hook; left to itself it would split tensors among the processes, and no data."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, module: LightningModule) -> None:
        """Shard the network, and losses that have weights of their own."""
        if self._roots:
            return
        half = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        for name, child in module.named_children():
            if not any(True for _ in child.parameters()):
                continue
            policy = MixedPrecisionPolicy(
                param_dtype=half if name == "net" else None,
                reduce_dtype=torch.float32,
                cast_forward_inputs=False,  # what may be computed in bfloat16 is autocast's to say
            )
            numbers = {value for value in child.parameters() if value.ndim == 0}  # those can't be sharded
            for block in _blocks(child):
                self._blocks.append(
                    fully_shard(block, mesh=self._mesh, mp_policy=policy, ignored_params=numbers)
                )
            root = fully_shard(
                child,
                mesh=self._mesh,
                mp_policy=policy,
                ignored_params=numbers,
                reshard_after_forward=False,  # the backward pass begins with what was used last
            )
            self._roots.append(root)
            if name == "net" and hasattr(child, "loss"):  # the other way into a network that writes
                register_fsdp_forward_method(child, "loss")

    @property
    def _mesh(self) -> Any:
        return self.device_mesh["data_parallel"]

    def on_validation_start(self) -> None:
        """Lightning's hook: gather everything once.

        Each process writes texts of its own length, and one that still gathers would wait for those that have
        finished.
        """
        for block in self._blocks:
            block.set_reshard_after_forward(False, recurse=False)
        for part in [*self._roots, *self._blocks]:
            part.unshard()

    def on_validation_end(self) -> None:
        """Lightning's hook."""
        for block in self._blocks:
            block.set_reshard_after_forward(True, recurse=False)
        for part in [*self._roots, *self._blocks]:
            part.reshard()

    # -- checkpoints ----------------------------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning's question: its own way of restoring is taken, with the methods below."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Lightning's hook: sharded, since only `save_checkpoint` knows what becomes of it."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Lightning's hook: as of any optimizer, so that a run goes on with another strategy, too."""
        return optimizer.state_dict()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Lightning's hook, called by all processes: `last` in shards, everything else whole."""
        path = Path(filepath)
        if path.name == "last.ckpt":
            checkpoint["tapetum"].pop("adapter", None)  # PEFT's directory is made of whole tensors
            directory = path.with_name(f"last-shards-{self.broadcast(secrets.token_hex(3))}")
            try:
                checkpoint = write_shards(checkpoint, directory)
            except OSError as error:
                shutil.rmtree(directory, ignore_errors=True)
                raise not_written(path, error) from error
        else:
            checkpoint = tree_map(self._whole, checkpoint)
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def _whole(self, leaf: Any) -> Any:
        if not isinstance(leaf, DTensor):
            return leaf
        whole = leaf.full_tensor()
        return whole.cpu() if self.is_global_zero else None

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Lightning's hook: one that is whole, or the shards of as many processes as there were."""
        path = Path(checkpoint_path)
        checkpoint = read_checkpoint(path, whole=False)
        return (
            read_shards(checkpoint, path, self._empty, together=True)
            if is_sharded(checkpoint)
            else checkpoint
        )

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Lightning's hook."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        weights = {
            name: self._sharded(value) if isinstance(own.get(name), DTensor) else value
            for name, value in checkpoint["state_dict"].items()
        }
        self.lightning_module.load_state_dict(weights, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Lightning's hook."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            numbers = [number for group in saved["param_groups"] for number in group["params"]]
            shapes = {number: value.shape for number, value in zip(numbers, parameters, strict=True)}
            state = {
                number: {
                    name: self._sharded(value) if getattr(value, "shape", None) == shapes[number] else value
                    for name, value in kept.items()
                }
                for number, kept in saved["state"].items()
            }
            optimizer.load_state_dict({**saved, "state": state})

    def _empty(self, tensor: Tensor) -> Tensor:
        """A sharded tensor of this shape and type, to be read into."""
        return distributed_tensor.empty(
            *tensor.shape, dtype=tensor.dtype, device_mesh=self._mesh, placements=[Shard(0)]
        )

    def _sharded(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor that all of them hold whole."""
        if isinstance(tensor, DTensor):
            return tensor
        return distribute_tensor(tensor, self._mesh, [Shard(0)], src_data_rank=None)


def trainer_settings(trainer: Mapping[str, Any], timeout_minutes: float = 30) -> dict[str, Any]:
    """`trainer` as Lightning's Trainer takes it, with the strategies of several processes built.

    timeout_minutes: how long a process waits in them for another one.
    """
    timeout = timedelta(minutes=timeout_minutes)
    if trainer.get("strategy") == "ddp":
        return {**trainer, "strategy": DDPStrategy(timeout=timeout)}
    if trainer.get("strategy") == NAME:
        # What is gathered first in inference mode could never be trained.
        return {**trainer, "strategy": FullySharded(timeout), "inference_mode": False}
    return dict(trainer)


def unsharded(module: LightningModule, config: Mapping[str, Any]) -> nn.Module:
    """The module's network as one process can run it: where it is sharded, another one takes its place."""
    net: nn.Module = module.net  # type: ignore[assignment]
    if any(isinstance(value, DTensor) for value in net.parameters()):
        net = module.net = build_network(config)
    return net


def sharding_problems(config: Mapping[str, Any], net: nn.Module, *, processes: int) -> list[str]:
    """What does not go with trainer.strategy=fsdp2.

    net: the config's network on the meta device. processes: how many the config asks for.
    """
    trainer, train = config["trainer"], config["train"]
    if trainer.get("strategy") != NAME:
        return []
    problems = []
    if not config["model"]["fit"]:
        problems.append(
            "trainer.strategy=fsdp2 shards what is trained, and model.fit=false trains nothing: type "
            "accelerator=gpu_bf16"
        )
    if processes == 1:
        problems.append(
            "trainer.strategy=fsdp2 shares the weights among several processes, and this run has one: type "
            "accelerator=gpu_bf16, or trainer.devices=2"
        )
    if str(trainer["precision"]) not in _PRECISIONS:
        problems.append(
            f"trainer.strategy=fsdp2 works with trainer.precision={' or '.join(_PRECISIONS)}, not "
            f"{trainer['precision']}"
        )
    for key in ("compile", "channels_last"):
        if train[key]:
            problems.append(
                f"train.{key}=true does not go with trainer.strategy=fsdp2: type train.{key}=false, or "
                f"accelerator=ddp_bf16"
            )
    for name, node in config["callbacks"].items():
        if node and str(node.get("_target_")).endswith(_HOLDS_WEIGHTS):
            problems.append(
                f"callbacks.{name} needs the weights whole, and trainer.strategy=fsdp2 shards them: type "
                f"accelerator=ddp_bf16, or callbacks.{name}=null"
            )
    if config["model"]["net"].get("quantization"):
        problems.append(
            f"model.net.quantization={config['model']['net']['quantization']} has no weights that "
            f"trainer.strategy=fsdp2 could shard: type accelerator=ddp_bf16, or model.net.quantization=null"
        )
    return problems + _network_problems(net)


def _network_problems(net: nn.Module) -> list[str]:
    """Parts of a network that can't be sharded, or not trained so."""
    problems = []
    if found := [name for name, part in net.named_modules() if isinstance(part, _BatchNorm)]:
        problems.append(
            f"the network has BatchNorm ({found[0]}), whose statistics trainer.strategy=fsdp2 would leave to "
            f"each process: type accelerator=ddp_bf16, which synchronises them"
        )
    if found := [name for name, value in net.named_parameters() if value.requires_grad and not value.ndim]:
        problems.append(
            f"the network trains a single number ({found[0]}), which trainer.strategy=fsdp2 can't shard: "
            f"type accelerator=ddp_bf16"
        )
    return problems


def _blocks(net: nn.Module) -> list[nn.Module]:
    """The blocks of a trunk, inner ones first: members of a list or sequence with layers of their own."""
    lists = [part for part in net.modules() if isinstance(part, nn.ModuleList | nn.Sequential)]
    members = [
        member
        for part in lists
        for member in part.children()
        if not isinstance(member, nn.ModuleList | nn.ModuleDict)
        and any(True for _ in member.children())
        and any(True for _ in member.parameters())
    ]
    return list(reversed(dict.fromkeys(members)))
