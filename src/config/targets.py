"""What a `_target_` may name: the packages we build from, and those that the user allowed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ALLOWED = (
    "tapetum",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "timm",
    "transformers",
    "peft",
    "pytorch_metric_learning",
)

# Inside allowed packages, but able to run code, read pickles or start processes: a checkpoint is untrusted.
REFUSED = (
    "tapetum.cli",
    "tapetum.commands",
    "tapetum.config",
    "tapetum.launch",
    "torch.classes",
    "torch.compile",
    "torch.distributed",
    "torch.export",
    "torch.hub",
    "torch.jit",
    "torch.library",
    "torch.load",
    "torch.multiprocessing",
    "torch.ops",
    "torch.package",
    "torch.save",
    "torch.serialization",
    "torch.utils.cpp_extension",
    "torch.utils.model_zoo",
    "transformers.commands",
    "transformers.pipeline",
)

# Arguments of instantiate itself, never of the target.
INSTANTIATE_KEYS = frozenset({"_target_", "_partial_", "_args_", "_recursive_", "_convert_"})

# Interpreter and config machinery: allowing these would be allowing anything.
_NEVER = frozenset(sys.stdlib_module_names) | {"hydra", "omegaconf", "hydra_plugins", "pip", "setuptools"}


def walk_targets(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping below `node` that has a `_target_`, with its dotted key; lists as `key.0`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from walk_targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from walk_targets(value, f"{key}.{number}" if key else str(number))


def target_problem(target: Any, allow: Sequence[str] = ()) -> str | None:
    """Why `target` may not be built, or None; `allow` is the user's own `allow_targets`."""
    if not isinstance(target, str) or not target.strip("."):
        return f"_target_={target!r} is not the dotted name of a class or function"
    parts = target.split(".")
    if not all(part.isidentifier() for part in parts):
        return f"_target_={target!r} is not the dotted name of a class or function"
    if parts[0] in _NEVER:
        return f"_target_={target} is never allowed: {parts[0]} can run anything"
    inside = [name for name in REFUSED if target == name or target.startswith(f"{name}.")]
    if inside:
        return f"_target_={target} is never allowed: {inside[0]} loads or runs code"
    if any(part.startswith("_") for part in parts):
        return f"_target_={target} is private: name a public class or function"
    # `torch.os.system` is os.system by another name.
    if parts[0] in ALLOWED and any(part in _REACHED_MODULES for part in parts[1:-1]):
        return f"_target_={target} leaves {parts[0]}: name the class or function where it is defined"
    if not any(target == name or target.startswith(f"{name}.") for name in (*ALLOWED, *allow)):
        return (
            f"_target_={target} is outside the packages that may be built ({', '.join(ALLOWED)}): "
            f"if you trust {parts[0]}, type allow_targets=[{parts[0]}]"
        )
    return None


def allow_problem(name: Any) -> str | None:
    """Why `name` may not stand in `allow_targets`, or None."""
    if not isinstance(name, str) or not name or not all(part.isidentifier() for part in name.split(".")):
        return f"allow_targets: {name!r} is not the name of a package: allow_targets=[my_package]"
    if name.split(".")[0] in _NEVER:
        return f"allow_targets: {name} can never be allowed, since it can run anything: name your own package"
    return None


# Modules that a package imports and that are therefore attributes of it.
_REACHED_MODULES = frozenset(
    {"builtins", "ctypes", "functools", "importlib", "inspect", "io", "marshal", "os", "pathlib", "pickle"}
    | {"runpy", "shelve", "shutil", "socket", "subprocess", "sys", "tarfile", "tempfile", "urllib", "zipfile"}
)
