"""Reading weight files that others published: tensors only, strictly, with an error one can act on."""

from __future__ import annotations

import argparse
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import CheckpointError
from .frozen import FeatureBank

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")


@dataclass(frozen=True)
class Published:
    """How a published file names what a network holds; a network lists its own as `published`.

    mark: a name, or a prefix ending in a dot, by which such a file is told from others.
    rename, drop: as `load_weights` takes them. convert: turns all tensors of the file into the network's,
        where other names alone won't do; it comes first.
    """

    mark: str
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Collection[str] = ()
    convert: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None


def load_weights(
    network: nn.Module,
    path: str | Path,
    *,
    rename: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    elsewhere: Collection[str] = (),
) -> None:
    """Load a published file into `network`, strictly over what the file is published to hold.

    rename: prefix of a name in the file -> prefix in the network; the first that fits is taken.
    drop: names, or prefixes ending in a dot, that the file holds and the network has no use for.
    elsewhere: names of the network that the file is not published to hold (a tower with weights of its own).
    What the network itself declares is added: the first of its `published` files whose mark the file bears,
    and, where the file holds none of them, the names that it `stored_elsewhere` has.
    Raises CheckpointError when the file cannot be read or differs from the network in a name or a shape.
    """
    state: Mapping[str, Tensor] = read_state_dict(path)
    layouts: tuple[Published, ...] = getattr(network, "published", ())
    layout = next((one for one in layouts if any(_matches(name, [one.mark]) for name in state)), None)
    if layout is not None:
        state = state if layout.convert is None else layout.convert(state)
        rename, drop = {**layout.rename, **(rename or {})}, {*layout.drop, *drop}
    _check_frozen(network, {_renamed(name, rename or {}) for name in state}, str(path))
    apart: frozenset[str] = getattr(network, "stored_elsewhere", frozenset)()
    if not any(_renamed(name, rename or {}) in apart for name in state):
        elsewhere = {*elsewhere, *apart}
    load_state(network, state, source=str(path), rename=rename, drop=drop, elsewhere=elsewhere)


def expect_weights(network: nn.Module) -> None:
    """Mark a network that is published for prediction alone, so that `check_loaded` refuses a random one."""
    network.loaded = False  # type: ignore[assignment]
    network.register_load_state_dict_post_hook(_now_loaded)  # type: ignore[no-untyped-call]


def check_loaded(network: nn.Module) -> None:
    """Raise CheckpointError where no state dict was loaded into a network that expects one."""
    if not network.loaded:
        raise CheckpointError(
            f"{type(network).__name__} is for prediction with published weights here, and none were loaded: "
            "type weights=FILE"
        )


def building_on_meta() -> bool:
    """Whether modules built now get shapes without memory, so that no weight is to be read."""
    return torch.empty(0).is_meta


def has_values(tensor: Tensor) -> bool:
    """Whether there is anything to look at: not on the meta device, nor where shapes alone are followed."""
    return not tensor.is_meta and type(tensor).__name__ != "FakeTensor"


def undrawn(pretrained: bool | str) -> AbstractContextManager[None]:
    """Leaves weights of transformers undrawn that are about to be loaded: drawing ViT-B/32 takes seconds."""
    from transformers.initialization import no_init_weights

    loads = pretrained is not False and not building_on_meta()
    return no_init_weights() if loads else nullcontext()


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name, on the CPU; of a .zip the one file that is in it.

    Unwraps `model`, `state_dict`, `model_state_dict` and `net`; strips DataParallel's `module.`.
    Raises CheckpointError for a file that is absent, damaged, holds pickled objects, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"no weight file at {path}: give the path of a .safetensors, .pth, .pt or .ckpt file"
        )
    state = _unwrap(_read(path), path)
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def make_room(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Before `weights` are loaded: shape like theirs what a network is filled with (`FeatureBank`)."""
    if isinstance(network, FeatureBank):
        network.make_room(weights)


def load_state(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    rename: Mapping[str, str] | None = None,
    drop: Collection[str] = (),
    elsewhere: Collection[str] = (),
) -> None:
    """As `load_weights`, for tensors that are already read; `source` is what the error calls them."""
    given = {
        _renamed(name, rename or {}): tensor for name, tensor in state.items() if not _matches(name, drop)
    }
    make_room(network, given)
    wanted = network.state_dict()
    missing = [name for name in wanted if name not in given and name not in elsewhere]
    unexpected = [name for name in given if name not in wanted]
    misshapen = [
        f"{name} ({_shape(tensor)} in the file, {_shape(wanted[name])} in the network)"
        for name, tensor in given.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    if missing or unexpected or misshapen:
        lines = [f"{source} does not fit {type(network).__name__} ({len(wanted)} entries):"]
        lines += _few("missing in the file", missing)
        lines += _few("unknown to the network", unexpected)
        lines += _few("of another shape", misshapen)
        lines.append(
            "Give the file that belongs to this architecture, or choose the model that made the file."
        )
        raise CheckpointError("\n".join(lines))
    network.load_state_dict(given, strict=False)  # names were compared above; `elsewhere` may be absent


def _check_frozen(network: nn.Module, given: Collection[str], source: str) -> None:
    """Raise where a file fits that is published to hold the trained part alone, and the rest is random."""
    own = network.state_dict()
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    if getattr(network, "pretrained", None) is False and set(given) == trained != set(own):
        raise CheckpointError(
            f"{source} holds the trained part of {type(network).__name__} alone ({len(trained)} of "
            f"{len(own)} entries), and model.net.pretrained=false leaves the rest random: type "
            f"model.net.pretrained=true (the weights of model.net.backbone), or "
            f"model.net.pretrained=/path/to/its/weights"
        )


def _now_loaded(network: nn.Module, _: object) -> None:
    network.loaded = True  # type: ignore[assignment]


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Training scripts store their argparse.Namespace beside the weights: attributes, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(_inside(path) or path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign is None:
            raise CheckpointError(f"{path} is damaged or not a weight file: {_first_line(error)}") from error
        raise CheckpointError(
            f"{path} holds pickled Python objects ({foreign[1]}), and reading those can run code: refused. "
            "Where you trust the file, save its tensors alone, in the environment that made it: "
            "torch.save(model.state_dict(), 'weights.pth')"
        ) from error
    except (SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a weight file: {_first_line(error)}") from error


def _inside(path: Path) -> io.BytesIO | None:
    """The one file in a .zip, in which C2P-CLIP's weights are published; None for a file of torch itself."""
    if path.suffix != ".zip" or not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
        if any(entry.filename.endswith("/data.pkl") for entry in files):
            return None
        if len(files) != 1:
            names = ", ".join(entry.filename for entry in files[:5]) or "nothing"
            raise CheckpointError(
                f"{path} is an archive of {len(files)} files ({names}), not of one weight file: unpack it, "
                f"and type weights=FILE for the one you want"
            )
        return io.BytesIO(archive.read(files[0]))


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping) and not _is_state_dict(content):
        wrapped = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(wrapped) > 1:
            raise CheckpointError(
                f"{path} holds several sets of weights ({', '.join(wrapped)}): save the one you want alone"
            )
        if not wrapped:
            break
        content = content[wrapped[0]]
    if not isinstance(content, Mapping) or not _is_state_dict(content):
        found = (
            f"keys {', '.join(map(str, list(content)[:5]))}"
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise CheckpointError(
            f"{path} holds no state dict (found: {found or 'nothing'}): expected tensors by name, "
            f"bare or under one of {', '.join(WRAPPERS)}"
        )
    return dict(content)


def _is_state_dict(content: Mapping[object, object]) -> bool:
    named = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    return bool(content) and named


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(name.startswith(pattern) if pattern.endswith(".") else name == pattern for pattern in patterns)


def _few(what: str, names: list[str], shown: int = 3) -> list[str]:
    if not names:
        return []
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return [f"  {len(names)} {what}: {', '.join(names[:shown])}{rest}"]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
