"""The one place that turns a node of the config into an object."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from ..errors import ConfigError, TapetumError, did_you_mean
from .targets import ALLOWED, target_problem, walk_targets


def build(node: Mapping[str, Any], /, *, allow: Sequence[str] = (), **runtime: Any) -> Any:
    """Build `node` and everything below it from plain values.

    A node with a `_target_` gives what the target returns, or a functools.partial where `_partial_` is true;
    one without gives a dict of what is below it. `runtime` are arguments that only the program knows (a
    network, an index); they win over the node's own, reach the target as they are and are never copied.
    Raises ConfigError for a target outside the allow-list or a target that fails, naming both; a TapetumError
    raised by the target itself passes through untouched.
    """
    refuse_targets(node, allow)
    for _, found in walk_targets(node):
        locate(found["_target_"], allow)
    if "_target_" not in node:
        if runtime:
            raise ConfigError(f"a node without _target_ takes no arguments: {', '.join(sorted(runtime))}")
        return _instantiate(node, "")
    target = str(node["_target_"])
    deferred = _instantiate({**node, "_partial_": True}, target)
    if node.get("_partial_"):
        return functools.partial(deferred, **runtime) if runtime else deferred
    try:
        return deferred(**runtime)
    except TapetumError:
        raise
    except InstantiationException as error:
        raise _readable(error, target) from (error.__cause__ or error)
    except Exception as error:
        raise ConfigError(f"{target} failed: {type(error).__name__}: {error}") from error


def refuse_targets(node: Any, allow: Sequence[str] = ()) -> None:
    """Raise ConfigError with every `_target_` below `node` that may not be built, and trusted remote code."""
    problems = []
    for key, found in walk_targets(node):
        problem = target_problem(found["_target_"], allow)
        if problem:
            problems.append(f"{key}: {problem}" if key else problem)
        if found.get("trust_remote_code"):
            problems.append(f"{key or found['_target_']}: trust_remote_code is never on: leave it out")
    if problems:
        raise ConfigError(problems)


def locate(target: str, allow: Sequence[str] = ()) -> Any:
    """Import what `target` names; ConfigError where it is refused, absent, or a refused one's alias."""
    problem = target_problem(target, allow)
    if problem:
        raise ConfigError(problem)
    found = _imported(target)
    home = getattr(found, "__module__", None)
    # An attribute may lead out of the package it is reached through: torch.os.system lives in posix.
    if isinstance(home, str) and home.split(".")[0] not in (*_HOMES, *(name.split(".")[0] for name in allow)):
        raise ConfigError(f"_target_={target} is really {home}.{getattr(found, '__name__', '')}, not allowed")
    ours = (__package__.split(".")[0], *(name.split(".")[0] for name in allow))
    if target.split(".")[0] not in ours and not _is_a_part(found):
        raise ConfigError(
            f"_target_={target} is not a part that an experiment is built from (a module, transform, "
            f"optimizer, schedule, callback, logger or metric), and running anything else of a library is "
            f"not allowed: wrap it in a function of your own package and type allow_targets=[your_package]"
        )
    return found


def _is_a_part(found: Any) -> bool:
    """Whether something of a library is a class of a kind that configs name.

    Libraries also hold functions and classes that run commands or write files, and a checkpoint's config is
    untrusted input.
    """
    return isinstance(found, type) and any(
        f"{base.__module__}.{base.__qualname__}" in _KINDS for base in found.__mro__
    )


# By name, so that reading a config imports none. Transforms of torchvision and metrics of torchmetrics are
# modules, too.
_KINDS = frozenset(
    {
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "torch.optim.lr_scheduler.LRScheduler",
        "lightning.pytorch.callbacks.callback.Callback",
        "lightning.pytorch.loggers.logger.Logger",
        "lightning.pytorch.profilers.profiler.Profiler",
    }
)

# Packages whose objects the allowed ones re-export.
_HOMES = (*ALLOWED, "pytorch_lightning", "lightning_fabric", "lightning_utilities")


def _imported(target: str) -> Any:
    """The object that a dotted name leads to, importing one package after the other."""
    path, *names = target.split(".")
    try:
        found: Any = importlib.import_module(path)
        for name in names:
            if not hasattr(found, name) and isinstance(found, ModuleType) and find_spec(f"{path}.{name}"):
                importlib.import_module(f"{path}.{name}")
            if not hasattr(found, name):
                near = did_you_mean(name, [one for one in dir(found) if not one.startswith("_")])
                raise ConfigError(f"_target_={target} does not exist: {path} has no {name}{near}")
            found, path = getattr(found, name), f"{path}.{name}"
    except ImportError as error:
        raise ConfigError(f"_target_={target} can't be imported: {error}") from error
    return found


def _instantiate(node: Mapping[str, Any], target: str) -> Any:
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as error:
        cause = _innermost(error)
        if isinstance(cause, TapetumError):
            raise cause from cause.__cause__
        raise _readable(error, target) from cause


def _innermost(error: BaseException) -> BaseException:
    """The failure that the target itself raised, below Hydra's wrapping."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _readable(error: InstantiationException, outer: str) -> ConfigError:
    text = str(error)
    cause = _innermost(error)
    key = re.search(r"full_key: (\S+)", text)
    target = re.search(r"(?:target|partial\() ?'?([\w.]+)", text)
    name = target.group(1) if target else outer
    where = f"{key.group(1)}: " if key else ""
    if "Error locating target" in text:
        return ConfigError(f"{where}_target_={name} can't be imported: {cause}")
    if cause is error:
        return ConfigError(f"{where}{name}: {text.splitlines()[0]}")
    return ConfigError(f"{where}{name} failed: {type(cause).__name__}: {cause}")
