"""How much device memory a config needs, counted on tensors that have shapes and no memory.

The network really runs, forward and backward, on fake tensors (torch's FakeTensorMode), and every storage
that comes and goes is added up. Nothing is allocated and no weight is read.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..config.build import build
from ..errors import TapetumError
from ..images.geometry import InputSpec

Phase = Literal["training", "predicting"]

_WHOLE = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
_LARGEST = 64  # images that are run; of a larger batch the memory is on a line through two smaller ones
_CONVERSATION = 64  # tokens of a question that the data brings along
_PROBE = (64, 64)  # shape of the parameter on which an optimizer shows what it keeps


class UnknownMemoryError(TapetumError):
    """Nothing can be said of the memory of this config; the message is the reason."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a step of one process.

    batch: images of the step. tokens: of the text that goes with each image, 0 for none; those of an image
    itself are not counted. weights: parameters and buffers. gradients: of what is trained, and DDP's copy
    of them. optimizer: its states. activations: everything that a batch makes, the images included, as far
    as it is alive at the peak.
    """

    phase: Phase
    batch: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    tokens: int = 0

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def as_dict(self) -> dict[str, int | str]:
        """Plain data, the total first."""
        return {"total": self.total, **asdict(self)}

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {size(value)}"
            for name in ("activations", "weights", "gradients", "optimizer")
            if (value := getattr(self, name))
        )
        verb = "train" if self.phase == "training" else "predict"
        texts = f" with {self.tokens} tokens of text each" if self.tokens else ""
        return f"{size(self.total)} to {verb} on {self.batch} images{texts} ({parts})"


def estimate(net: nn.Module, config: Mapping[str, Any], spec: InputSpec) -> MemoryEstimate:
    """What a step of the config takes on its device: a training step, or with model.fit=false a prediction.

    net: the config's network on the meta device; it is used up. spec: its geometry, the user's changes
    included. Left out are what libraries take for themselves (a CUDA context about 0.5 GB, a process with
    torch about as much, workspaces of convolutions), averaged copies of the weights and torch.compile.
    A network that reads texts says with `dry_step(images, asked, answered)` what a step costs; how long they
    will be is a guess (`_texts`), which the estimate names.
    Raises UnknownMemoryError where images keep different sizes, or the network needs pixels to run.
    """
    if spec.output_size is None:
        raise UnknownMemoryError("the images keep different sizes")
    trains = config["model"]["fit"] and any(one.requires_grad for one in net.parameters())
    batch: int = config["data"]["batch_size" if trains else "eval_batch_size"]
    image = (spec.channels, *spec.output_size)
    precision = str(config["trainer"]["precision"])
    try:
        with _fake(net, precision):
            weights = _bytes([*net.parameters(), *net.buffers()])
            gradients = _bytes([one for one in net.parameters() if one.requires_grad]) if trains else 0
            accumulates = (config["trainer"].get("accumulate_grad_batches") or 1) > 1
            texts = _texts(config) if hasattr(net, "dry_step") else ()
            step = partial(
                _peak,
                net.train(trains),
                image,
                precision,
                trains=trains,
                accumulates=accumulates,
                texts=texts,
            )
            peak = step(min(batch, _LARGEST))
            if batch > _LARGEST:
                half = step(_LARGEST // 2)
                peak += round((peak - half) / (_LARGEST // 2) * (batch - _LARGEST))
    except Exception as error:  # whatever a network of the user's own raises on tensors without pixels
        raise UnknownMemoryError(f"the network can't be run without pixels: {_said(error)}") from error
    copies = 2 if "ddp" in str(config["trainer"].get("strategy")) else 1
    return MemoryEstimate(
        phase="training" if trains else "predicting",
        batch=batch,
        weights=weights,
        gradients=copies * gradients,
        optimizer=round(gradients * _states(config)) if trains else 0,
        activations=max(0, peak - weights - gradients),
        tokens=sum(texts),
    )


def size(count: int) -> str:
    """Bytes as people read them: `1.43 GB`, `38 MB`."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6)) if count else 0} MB"


# -- helpers -----------------------------------------------------------------------------------------------


@contextmanager
def _fake(net: nn.Module, precision: str) -> Iterator[None]:
    """Inside, the weights are fake tensors of the precision that the run has, and so is what is made."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second to import

    before = torch.get_default_dtype()
    if precision in _WHOLE:
        net.to(_WHOLE[precision])
    with FakeTensorMode(allow_non_fake_inputs=True):
        _empty(net)
        torch.set_default_dtype(_WHOLE.get(precision, before))  # as Lightning does around a step
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _empty(net: nn.Module) -> None:
    """`to_empty`, which gives tied weights (a language model's embeddings and its output) a storage each."""
    places = list(net.named_parameters(remove_duplicate=False))
    net.to_empty(device="cpu")
    kept: dict[int, nn.Parameter] = {}
    for name, before in places:
        module, _, own = name.rpartition(".")
        owner = net.get_submodule(module)
        setattr(owner, own, kept.setdefault(id(before), getattr(owner, own)))


def _peak(
    net: nn.Module,
    image: tuple[int, ...],
    precision: str,
    batch: int,
    *,
    trains: bool,
    accumulates: bool,
    texts: tuple[int, ...],
) -> int:
    """Most bytes alive at once: the weights, and what two steps in Lightning's order make."""
    autocast = (
        torch.autocast("cpu", torch.bfloat16) if precision in ("bf16-mixed", "16-mixed") else nullcontext()
    )
    storages = _Storages()
    with storages, torch.set_grad_enabled(trains):
        storages.add([*net.parameters(), *net.buffers()])
        for _ in range(2 if trains else 1):  # the gradients of a step live until the next one's backward
            images = torch.zeros((batch, *image), dtype=torch.uint8)
            with autocast:
                made = net.dry_step(images, *texts) if texts else net(images)  # type: ignore[operator]
                outputs = [one for one in tree_leaves(made) if isinstance(one, Tensor)]
                loss = torch.stack([one.float().mean() for one in outputs]).sum()
            if trains:
                if not accumulates:
                    net.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
            del made, outputs, loss, images
    return storages.peak


def _texts(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens of an image's question, about two a word, and of its answer, or caption, at its longest."""
    model = config["model"]
    asked = model.get("prompt")
    question = 0 if "prompt" not in model else _CONVERSATION if asked is None else 2 * len(asked.split()) + 8
    return question, int(model["generation"]["max_new_tokens"])


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of every storage from the operation that makes it until nothing holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now: int = 0
        self.peak: int = 0
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def add(self, tensors: Any) -> None:
        """Count the storages of tensors that are not counted yet."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage not in self._known:
                count = self._known[storage] = storage.nbytes()
                self.now += count
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._forget, count)

    def _forget(self, count: int) -> None:
        self.now -= count

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(result)
        return result


def _bytes(tensors: list[Any]) -> int:
    """Bytes of tensors, those that share a storage once."""
    return sum({id(one.untyped_storage()): one.untyped_storage().nbytes() for one in tensors}.values())


def _states(config: Mapping[str, Any]) -> float:
    """What the optimizer keeps for a byte of what it trains: seen on one small parameter."""
    optimizer: partial[Optimizer] = build(config["optimizer"], allow=config["allow_targets"])
    parameter = nn.Parameter(torch.zeros(_PROBE))
    parameter.grad = torch.ones(_PROBE)
    try:
        made = optimizer([parameter])
        made.step()
    except Exception as error:  # an optimizer of the user's own, or one that wants a closure
        raise UnknownMemoryError(f"the optimizer takes no step on its own: {_said(error)}") from error
    kept = [one for one in made.state[parameter].values() if isinstance(one, Tensor) and one.ndim]
    return sum(one.nbytes for one in kept) / parameter.nbytes


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
