"""Every problem of a composed config that can be known without torch, told at once.

Phase 1 (`check_config`) reads sources and looks at paths and takes well under a second; phase 2
(`check_imported`) imports what phase 1 could only read about.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError, did_you_mean
from .arguments import missing_keys, unknown_keys, wrong_values
from .compose import Composed
from .joined import each, named
from .schema import (
    BESIDES,
    COLUMNS,
    COMPLETED_BELOW,
    FIGURES,
    FOREIGN,
    INCOMPLETE,
    MAPPINGS,
    METRICS,
    PROVIDED,
)
from .signatures import Parameter, Signature, absence, constant, signature
from .targets import allow_problem, target_problem, walk_targets
from .values import path_problems, select, value_problems

_TARGETS = ("model", "model.net", "data", "data.index", "optimizer", "augment")
_STARTS = ("val/", "train/")


def check_config(composed: Composed, *, need_files: bool = True) -> None:
    """Phase 1: raise one ConfigError with every problem of a composed config.

    need_files: whether data and weight files that are not there are problems; `tapetum check` tells what
        would run without them.
    """
    problems = [
        named(problem, name)
        for name, config in each(composed.config).items()
        for problem in (
            *_mapping_problems(config),
            *_target_problems(config),
            *value_problems(config),
            *_metric_problems(config),
            *_monitor_problems(config),
            *(path_problems(config) if need_files else ()),
            *column_problems(config),
        )
    ]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def check_imported(config: Mapping[str, Any]) -> list[str]:
    """Phase 2: what does not fit the real signatures of targets whose source did not tell; imports them."""
    from .build import locate

    allow = config.get("allow_targets") or []
    problems = []
    for key, node in (found for one in each(config).values() for found in walk_targets(one)):
        target = node["_target_"]
        if target_problem(target, allow) or signature(target) is not None:
            continue  # phase 1 has told
        try:
            found = _imported_signature(target, locate(target, allow))
        except ConfigError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
            continue
        if found is not None:
            problems += _argument_problems(key, node, found)
    return list(dict.fromkeys(problems))


# -- keys ----------------------------------------------------------------------------------------------------


def _mapping_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Keys and plain types of the mappings that have no `_target_`."""
    for key, target in MAPPINGS.items():
        node = select(config, key)
        found = signature(target)
        if not isinstance(node, Mapping) or found is None:
            continue
        provided = PROVIDED.get(key, {})
        yield from _provided_keys(key, node)
        yield from unknown_keys(key, node, [found], provided)
        if key not in INCOMPLETE:
            yield from missing_keys(key, node, found)
        yield from wrong_values(key, {name: node[name] for name in node if name not in provided}, found)
    for key in _TARGETS:
        node = select(config, key)
        if isinstance(node, Mapping) and "_target_" not in node:
            group = key.split(".")[0]
            yield f"{key} has no _target_: type {group}=NAME, or {key}._target_=package.module.Name"
    for group in COMPLETED_BELOW:
        for name, node in (config.get(group) or {}).items():
            if node is not None and not (isinstance(node, Mapping) and "_target_" in node):
                entry = f"{group}.{name}"
                yield f"{entry} has no _target_: type {entry}=null, or {entry}._target_=package.module.Name"


def _target_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """The allow-list, then what the source says about each `_target_` and its arguments."""
    listed = config.get("allow_targets")
    allow = listed if isinstance(listed, list) else []
    for name in allow:
        problem = allow_problem(name)
        if problem:
            yield problem
    allow = [name for name in allow if not allow_problem(name)]
    for key, node in walk_targets(config):
        problem = target_problem(node["_target_"], allow)
        if problem is None:
            why = absence(node["_target_"])
            problem = f"_target_={node['_target_']} does not exist: {why}" if why else None
        if problem is not None:
            yield f"{key}: {problem}"
            continue
        if node.get("trust_remote_code"):
            yield f"{key}.trust_remote_code is never on: leave it out"
        found = signature(node["_target_"])
        if found is not None and found.kind == "function" and called_later(key) and not node.get("_partial_"):
            yield (
                f"{key}._target_={node['_target_']} is a function, which is called with logits and labels: "
                f"type {key}._partial_=true"
            )
        elif found is not None:
            yield from _argument_problems(key, node, found)


def called_later(key: str) -> bool:
    """Whether at `key` a function itself is wanted and not its result: a loss or a metric."""
    return re.match(r"model\.(loss\b|metrics\.)", key) is not None


def _argument_problems(key: str, node: Mapping[str, Any], found: Signature) -> Iterator[str]:
    provided = PROVIDED.get(key, {})
    besides = [known for name in (BESIDES.get(key),) if name and (known := signature(name))]
    yield from _provided_keys(key, node)
    yield from unknown_keys(key, node, [found, *besides], provided)
    for one in besides:
        yield from missing_keys(key, node, one)
        yield from wrong_values(key, node, one)
    inner = {name for one in besides for name in one.names}
    yield from wrong_values(key, {name: node[name] for name in node if name not in inner}, found)
    group = key.split(".")[0]
    if not node.get("_partial_") and group not in COMPLETED_BELOW:
        yield from missing_keys(key, node, found, {*provided, *inner})


def _provided_keys(key: str, node: Mapping[str, Any]) -> Iterator[str]:
    for name, instead in PROVIDED.get(key, {}).items():
        if name in node:
            yield f"{key}.{name} is filled in by tapetum: {instead}"


# -- what belongs together --------------------------------------------------------------------------------


def _metric_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Names under model.metrics that are no names or are taken, and entries that name nothing to build."""
    own = select(config, "model.metrics")
    for name, node in own.items() if isinstance(own, Mapping) else ():
        taken = FIGURES.get(str(config.get("task")), ())
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
            yield (
                f"model.metrics.{name}: the name of a metric takes letters, digits and _ only, and begins "
                f"with a letter: type model.metrics.my_metric._target_=…"
            )
        elif name in taken:
            yield (
                f"model.metrics.{name}: val/{name} is there already: choose another name than "
                f"{', '.join(taken)}"
            )
        if node is not None and not (isinstance(node, Mapping) and "_target_" in node):
            entry = f"model.metrics.{name}"
            yield f"{entry} has no _target_: type {entry}=null, or {entry}._target_=package.module.Name"


def _monitor_problems(config: Mapping[str, Any]) -> Iterator[str]:
    train = config.get("train")
    if not isinstance(train, Mapping) or not isinstance(train.get("monitor"), str):
        return
    monitor, mode = train["monitor"], train.get("mode")
    task = str(config.get("task"))
    own = select(config, "model.metrics")
    known: dict[str, str | None] = {
        **METRICS.get(task, {}),
        **{f"val/{name}": None for name, node in (own or {}).items() if node is not None},
    }
    if monitor.startswith("test/"):
        yield f"train.monitor={monitor} would let the test split choose: type train.monitor=val/{monitor[5:]}"
        return
    if not monitor.startswith(_STARTS):
        near = did_you_mean(monitor.replace("val_", "val/", 1), known) or ": it looks like val/METRIC"
        yield f"unknown value train.monitor={monitor}{near} {task} logs {', '.join(known)}"
        return
    ours = str((config.get("model") or {}).get("_target_")).startswith("tapetum.")
    if ours and monitor.startswith("val/") and monitor not in known:
        longer = [name for name in known if name.startswith(monitor)]
        near = f": did you mean {longer[0]}?" if longer else did_you_mean(monitor, known) or "."
        yield f"unknown value train.monitor={monitor}{near} {task} logs {', '.join(known)}"
    better = known.get(monitor)
    if better is not None and mode in ("min", "max") and mode != better:
        direction = "smaller" if better == "min" else "larger"
        which = f"train.monitor={monitor}, which is better when {direction}"
        yield f"train.mode={mode} contradicts {which}: type train.mode={better}"


def column_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Columns that the task needs and the layout does not declare."""
    target = select(config, "data.index._target_")
    task = config.get("task")
    if not isinstance(target, str) or not isinstance(task, str) or "." not in target:
        return
    columns = constant(target.rsplit(".", 1)[0], "COLUMNS")
    if not isinstance(columns, tuple):
        return
    theirs, ours = FOREIGN.get(task, ("", ""))
    if theirs in columns and ours not in columns:
        yield (
            f"task {task} can't learn from data.index._target_={target}, whose labels are those of another "
            f"task (it has the column {theirs}): choose another data=NAME, or a model=NAME of another task"
        )
    for column in COLUMNS.get(task, ()):
        if not any(one in columns for one in column.split("|")):
            yield (
                f"task {task} needs the column {column.replace('|', ' or ')}, which "
                f"data.index._target_={target} does not give ({', '.join(columns)}): choose another "
                "data=NAME, or a model=NAME of another task"
            )


def _imported_signature(target: str, found: Any) -> Signature | None:
    try:
        real = inspect.signature(found)
    except (TypeError, ValueError):
        return None  # written in C, and says nothing about itself
    named = [
        one for one in real.parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    parameters = tuple(
        Parameter(one.name, one.default is not one.empty, keyword_only=one.kind is one.KEYWORD_ONLY)
        for one in named
    )
    kwargs = any(one.kind is one.VAR_KEYWORD for one in real.parameters.values())
    return Signature(target, "class" if inspect.isclass(found) else "function", parameters, kwargs)
