"""`tapetum check`: everything wrong with an experiment, or everything that would run, without running it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.overrides import prepare
from ..errors import ConfigError, TapetumError


def main(arguments: Sequence[str]) -> int:
    """Print the plan (`--json`: as JSON); a ConfigError carries every problem. The exit code."""
    from .console import console

    as_json = "--json" in arguments
    composed = compose(prepare([one for one in arguments if one != "--json"], multirun=False))
    plan = explain(composed)
    if as_json:
        print(json.dumps(plan, indent=2, ensure_ascii=False))
        return 0
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in plan.items():
        if key != "config":
            table.add_row(key, _shown(value))
    console.print(table)
    return 0


def explain(composed: Composed) -> dict[str, Any]:
    """What would run, as plain data; what absent data or weights would tell stands as `unknown: needs …`.

    Raises ConfigError with all problems of both phases.
    """
    check_config(composed, need_files=False)
    from ..indexes.walk import MissingFolder
    from ..modules.detection import with_geometry
    from ..runs.building import build_index, build_network_on_meta, class_counts, parameter_counts
    from .memory import estimate
    from .preflight import Preflight, hardware_problems, index_problems, network_problems

    config = composed.config
    problems = [*hardware_problems(config["trainer"]), *network_problems(config)]
    if problems:
        raise ConfigError(problems)
    net = build_network_on_meta(config)
    spec = with_geometry(net, config["model"]["geometry"])
    total, trainable = parameter_counts(net)
    memory = estimate(net, config, spec.output_size)
    plan: dict[str, Any] = {
        "name": config["name"],
        "task": config["task"],
        "choices": composed.choices,
        "network": config["model"]["net"]["_target_"],
        "parameters": {"total": total, "trainable": trainable},
        "geometry": {
            "size": spec.size,
            "resize": spec.resize,
            "crop": spec.crop,
            "interpolation": spec.interpolation,
            "channels": spec.channels,
        },
    }
    try:
        index = build_index(config)
    except MissingFolder as error:
        plan["data"] = f"unknown: needs {config['data']['root']} ({str(error).splitlines()[0]})"
        steps: Any = "unknown: needs the data"
    except ConfigError:
        raise
    except TapetumError as error:
        raise ConfigError(str(error)) from error
    else:
        problems = index_problems(config, index)
        if problems:
            raise ConfigError(problems)
        plan["data"] = {"root": config["data"]["root"], "counts": index.counts(), "notes": dict(index.notes)}
        plan["limits"] = Preflight.of(config, index).limits
        steps = _steps(config, sum(class_counts(index)))
    plan |= {
        "optimizer": _call(config["optimizer"]),
        "schedule": _call(config["scheduler"]),
        "precision": config["trainer"]["precision"],
        "accelerator": config["trainer"]["accelerator"],
        "effective batch": config["data"]["batch_size"] * config["trainer"]["accumulate_grad_batches"],
        "steps": steps,
        "monitor": f"{config['train']['monitor']} ({config['train']['mode']})",
        "memory": "unknown: the images keep different sizes"
        if memory is None
        else f"{memory.total / 1e9:.2f} GB a training step",
        "config": config,
    }
    return plan


def _steps(config: Mapping[str, Any], images: int) -> dict[str, int]:
    batches = max(1, images // config["data"]["batch_size"])
    per_epoch = math.ceil(batches / config["trainer"]["accumulate_grad_batches"])
    return {"per epoch": per_epoch, "total": per_epoch * (config["trainer"]["max_epochs"] or 0)}


def _call(node: Mapping[str, Any] | None) -> str:
    if not node:
        return "none"
    arguments = ", ".join(f"{key}={value}" for key, value in node.items() if not key.startswith("_"))
    return f"{str(node['_target_']).rsplit('.', 1)[-1]}({arguments})"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(one)}" for key, one in value.items())
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "none"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return (
            " × ".join(map(_shown, value))
            if all(isinstance(one, int) for one in value)
            else "; ".join(map(_shown, value)) or "none"
        )
    return str(value)
