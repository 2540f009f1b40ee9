"""From overrides to one plain config: what each group chose, then the command line, which wins."""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from ..errors import ConfigError, did_you_mean
from . import joined

CONFIG_MODULE = "tapetum.conf"
CONFIG_NAME = "train"
VERSION_BASE = "1.3"  # Hydra's own behaviour is frozen at this version


@dataclass(frozen=True)
class Composed:
    """One composed experiment.

    config: plain dicts, lists and primitives, every interpolation resolved, without Hydra's own node.
    choices: group name → the option that was chosen; groups that chose nothing are absent.
    """

    config: dict[str, Any]
    choices: dict[str, str]


def compose(overrides: Sequence[str]) -> Composed:
    """Compose `train.yaml` under the overrides of a command line; works inside `hydra.main` too.

    Of several data sets, `data=[a,b]`, each is composed alone; see `joined`.

    Raises ConfigError with every missing value and every interpolation that leads nowhere.
    """
    names = joined.chosen(overrides)
    if not names:
        return finish(compose_raw(overrides))
    found: dict[str, Composed] = {}
    problems: list[str] = []
    for name in names:
        words = (joined.of_set(word, name, names) for word in overrides)
        try:
            found[name] = finish(compose_raw([word for word in words if word is not None]))
        except ConfigError as error:
            problems += (joined.named(problem, name) for problem in error.problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    config = joined.join({name: one.config for name, one in found.items()})
    choices = {**next(iter(found.values())).choices, "data": "+".join(names)}
    if all(one.config.get("name") == f"{choices.get('model')}-{name}" for name, one in found.items()):
        config["name"] = f"{choices.get('model')}-{choices['data']}"
    return Composed(config, choices)


def finish(config: DictConfig) -> Composed:
    """The plain config from one that Hydra composed and that still contains its `hydra` node."""
    config = copy.deepcopy(config)
    with flag_override(config, ["struct", "readonly"], [False, False]):
        chosen = config.pop("hydra").runtime.choices
    choices = {str(group): str(option) for group, option in chosen.items() if option is not None}
    choices = {group: option for group, option in choices.items() if not group.startswith("hydra/")}
    raw = OmegaConf.to_container(config, resolve=False)
    missing = _missing_values(raw)
    problems = [f"{key} is missing: type {key}={_placeholder(key)}" for key in missing]
    problems += _broken_interpolations(config, raw, missing)
    if "data" in config and "data" not in choices:  # Hydra records no list
        problems.append(
            "a YAML file chooses several data sets, whose keys would be merged: type data=[NAME,NAME] on the "
            "command line instead"
        )
    if problems:
        raise ConfigError(problems)
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict), "Hydra composes mappings only"
    result = {str(key): value for key, value in plain.items()}
    if "name" in result and result["name"] is None:
        result["name"] = f"{choices.get('model', 'model')}-{choices.get('data', 'data')}"
    return Composed(config=result, choices=choices)


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """What Hydra composes, its own node included and nothing resolved; ConfigError where it can't."""
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIG_MODULE, version_base=VERSION_BASE):
            return hydra_compose(CONFIG_NAME, list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(_composition_problem(error)) from error
    finally:
        GlobalHydra.instance().hydra = outer  # Hydra's own exit puts back what was there before: nothing


def register_resolvers() -> None:
    """Make `${tapetum.sweep_dir:…}` known to OmegaConf; safe to call twice."""
    if not OmegaConf.has_resolver("tapetum.sweep_dir"):
        OmegaConf.register_new_resolver("tapetum.sweep_dir", _sweep_dir, use_cache=True)


def _sweep_dir(outputs: str, name: str | None) -> str:
    """Another one for each sweep; it is asked for once (`commands.sweep`), so that all jobs share it."""
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}"
    return f"{outputs}/sweeps/{name or 'sweep'}/{stamp}"


def _missing_values(raw: Any) -> list[str]:
    """The dotted keys that still hold `???`."""
    return [key for key, value in _leaves(raw) if value == "???"]


def _placeholder(key: str) -> str:
    last = key.rsplit(".", 1)[-1]
    return {"root": "DIR", "file": "FILE", "path": "PATH", "name": "NAME"}.get(last, "VALUE")


def _broken_interpolations(config: DictConfig, raw: Any, missing: Sequence[str]) -> Iterator[str]:
    """What is wrong with each `${…}` that leads nowhere; a missing value is told once, where it stands."""
    for key, value in _leaves(raw):
        if not isinstance(value, str) or "${" not in value:
            continue
        try:
            OmegaConf.select(config, key, throw_on_missing=True)
        except InterpolationToMissingValueError:
            if not any(name in value for name in missing):
                yield f"{key}={value} refers to a missing value"
        except InterpolationKeyError as error:
            found = re.search(r"Interpolation key '([^']+)'", str(error))
            wanted = found.group(1) if found else value
            near = did_you_mean(wanted, [name for name, _ in _leaves(raw)])
            yield f"{key}={value} refers to {wanted}, which is not a key of the config{near}"
        except UnsupportedInterpolationType as error:
            name = str(error).splitlines()[0].rsplit(" ", 1)[-1]
            yield f"{key}={value} calls the resolver {name}, which does not exist: oc.env reads a variable"
        except (OmegaConfBaseException, ValueError) as error:
            variable = re.search(r"Environment variable '([^']+)' not found", str(error))
            if variable:
                needs = f"needs the environment variable {variable.group(1)}"
                yield f"{key}={value} {needs}: set it, or type {key}=VALUE"
            else:
                yield f"{key}={value} can't be resolved: {_first_line(error)}"


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is neither a mapping nor a list."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{key}[{number}]")
    else:
        yield key, node


def _composition_problem(error: Exception) -> str:
    """One readable sentence from what Hydra, OmegaConf or the YAML reader raised."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "an unknown line"
        return f"a YAML file can't be read: {error.problem} at {where}"
    # The search path that Hydra appends names its own packages and helps nobody.
    text = str(error).split("Config search path:")[0]
    if "Cannot merge DictConfig with ListConfig" in text:
        return (
            f"{text.split(':')[0]} a list stands where there is a mapping, and YAML files are merged: "
            "several losses are model.loss: {_target_: tapetum.modules.losses.Sum, terms: […], weights: "
            "[…]}, or 'model.loss=[{loss:{_target_:…},weight:0.5},…]' on the command line"
        )
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key:", "object_type=")))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


register_resolvers()
