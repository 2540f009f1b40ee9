"""`tapetum check`: everything wrong with an experiment, or everything that would run, without running it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config.check import check_config
from ..config.compose import Composed, compose
from ..config.joined import places
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
            table.add_row(key, _LINES.get(key, _shown)(value))
    console.print(table)
    return 0


def explain(composed: Composed) -> dict[str, Any]:
    """What would run, as plain data; what absent data or weights would tell stands as `unknown: needs …`.

    Raises ConfigError with all problems of both phases.
    """
    check_config(composed, need_files=False)
    from ..launch.libraries import load_libraries

    load_libraries()
    from ..images.geometry import with_geometry
    from ..indexes.walk import MissingFolder
    from ..launch.world import world_size
    from ..runs.building import build_index, build_network_on_meta, parameter_counts
    from ..runs.memory import UnknownMemoryError, estimate
    from ..tasks import task_of
    from .preflight import Preflight, hardware_problems, index_problems, network_problems
    from .trackers import tracker_problems

    config = composed.config
    problems = [
        *hardware_problems(config["trainer"]), *tracker_problems(config), *network_problems(config)
    ]  # fmt: skip
    if problems:
        raise ConfigError(problems)
    net = build_network_on_meta(config)
    spec = with_geometry(net.input_spec, config["model"]["geometry"])  # type: ignore[arg-type]
    total, trainable = parameter_counts(net)
    try:
        memory: Any = estimate(net, config, spec).as_dict()
    except UnknownMemoryError as error:
        memory = f"unknown: {error}"
    plan: dict[str, Any] = {
        "name": config["name"],
        "task": config["task"],
        "choices": composed.choices,
        "network": config["model"]["net"]["_target_"],
        "parameters": {"total": total, "trainable": trainable, **_trained_parts(net)},
        "geometry": {
            "size": spec.size,
            "resize": spec.resize,
            "crop": spec.crop,
            "interpolation": spec.interpolation,
            "channels": spec.channels,
        },
    }
    asked = config["model"]
    try:
        index = build_index(config)
    except MissingFolder as error:
        plan["data"] = f"unknown: needs {error.folder} ({str(error).splitlines()[0]})"
        steps: Any = "unknown: needs the data"
    except ConfigError:
        raise
    except TapetumError as error:
        raise ConfigError(str(error)) from error
    else:
        problems = index_problems(config, index) or task_of(config).fits(config, lambda: net, index)
        if problems:
            raise ConfigError(problems)
        plan["data"] = {"root": places(config), "counts": index.counts(), "notes": dict(index.notes)}
        plan["limits"] = Preflight.of(config, index).limits
        steps = _steps(config, len(index.rows("train")))
        asked = task_of(config).settled(config, index)["model"]
    plan |= {
        **_question(asked),
        "optimizer": _call(config["optimizer"]),
        "schedule": _call(config["scheduler"]),
        "precision": config["trainer"]["precision"],
        "accelerator": config["trainer"]["accelerator"],
        "effective batch": config["data"]["batch_size"]
        * config["trainer"]["accumulate_grad_batches"]
        * world_size(config["trainer"]),
        "steps": steps,
        "monitor": f"{config['train']['monitor']} ({config['train']['mode']})",
        "memory": memory,
        "config": config,
    }
    return plan


def memory_line(memory: Mapping[str, Any] | str) -> str:
    """The plan's memory as one line."""
    from ..runs.memory import MemoryEstimate

    if isinstance(memory, str):
        return memory
    return str(MemoryEstimate(**{key: value for key, value in memory.items() if key != "total"}))


def _trained_parts(net: Any) -> dict[str, Any]:
    """What trains, part by part, where a network with adapters tells it."""
    return {"of these": net.trained_parts()} if hasattr(net, "trained_parts") else {}


def _question(model: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, and the answers that are judged; empty for a model that is asked nothing."""
    if "prompt" not in model:
        return {}
    from ..modules.vlm import question

    asked = question(model["prompt"], model["answers"])
    if asked is None:
        return {"question": "none: the data bring theirs"}
    answers = dict(zip(("real", "generated"), asked.answers, strict=True)) if asked.answers else {}
    return {"question": asked.prompt, **({"answers": answers} if answers else {})}


def _answers_line(answers: Mapping[str, str]) -> str:
    return ", ".join(f"{meant} is “{answer}”" for meant, answer in answers.items())


def _steps(config: Mapping[str, Any], images: int) -> dict[str, int]:
    from ..launch.world import world_size

    batches = max(1, images // (config["data"]["batch_size"] * world_size(config["trainer"])))
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


_LINES: dict[str, Callable[[Any], str]] = {"memory": memory_line, "answers": _answers_line}
"""How the plan's entries are shown that are no plain list of names and values."""
