"""Values that no type can judge: ranges, orders, files that must exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .signatures import constant

# Dotted key → smallest value that makes sense.
_AT_LEAST: dict[str, float] = {
    "seed": 0,
    "data.batch_size": 1,
    "data.eval_batch_size": 1,
    "data.num_workers": 0,
    "data.limit": 1,
    "data.limit.train": 1,
    "data.limit.val": 1,
    "data.limit.test": 1,
    "trainer.max_epochs": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.num_nodes": 1,
    "trainer.gradient_clip_val": 0,
    "callbacks.early_stopping.patience": 0,
    "callbacks.checkpoint.top_k": 1,
    "callbacks.checkpoint.every_n_epochs": 1,
    "callbacks.checkpoint.every_n_steps": 1,
    "optimizer.weight_decay": 0,
    "scheduler.warmup_epochs": 0,
    "scheduler.warmup_steps": 0,
    "scheduler.min_lr": 0,
    "augment.enlarge": 0,
}
_ABOVE_ZERO = ("optimizer.lr", "model.backbone_lr", "callbacks.checkpoint.every_minutes")


def value_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Numbers out of range, thresholds out of order."""
    for key, least in _AT_LEAST.items():
        value = _number(config, key)
        # Lightning's own word for "without end".
        if value is not None and value < least and not (key == "trainer.max_epochs" and value == -1):
            yield f"{key}={value} must be at least {least}: type {key}={max(least, 1)}"
    for key in _ABOVE_ZERO:
        value = _number(config, key)
        if value is not None and value <= 0:
            yield f"{key}={value} must be above 0: type {key}=1e-4"
    name = config.get("name")
    if isinstance(name, str) and (not name or "/" in name or "\\" in name or name in (".", "..")):
        yield f"name={name} becomes a folder of outputs and can't hold slashes: type name=my_experiment"
    fraction = _number(config, "data.val_fraction")
    if fraction is not None and not 0 <= fraction < 1:
        yield (
            f"data.val_fraction={fraction} must be at least 0 (no validation) and below 1: "
            "type data.val_fraction=0.1"
        )
    yield from _thresholds(config)


def path_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """Files and folders that are named and absent."""
    yield from _data_paths(config)
    net = select(config, "model.net")
    for name, value in net.items() if isinstance(net, Mapping) else ():
        weights = name == "pretrained" or name.endswith("_pretrained")
        if weights and isinstance(value, str) and not Path(value).expanduser().exists():
            key = f"model.net.{name}"
            yield f"{key}={value} does not exist: type {key}=true (the hub), false or a path"
    for key in ("weights", "resume"):
        path = config.get(key)
        if not isinstance(path, str) or (key, path) == ("resume", "auto"):
            continue
        if not Path(path).expanduser().exists():
            auto = ", or resume=auto" if key == "resume" else ""
            yield f"{key}={path} does not exist: type {key}=RUN (its directory) or {key}=FILE.ckpt{auto}"


def select(config: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key, None where nothing does; the config itself for the empty key."""
    node: Any = config
    for name in key.split(".") if key else ():
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _data_paths(config: Mapping[str, Any]) -> Iterator[str]:
    roots = select(config, "data.roots")
    named = {split: path for split, path in roots.items() if path} if isinstance(roots, Mapping) else {}
    for split, path in named.items():
        if isinstance(path, str) and not Path(path).expanduser().exists():
            yield f"data.roots.{split}={path} does not exist: type data.roots.{split}=DIR"
    root = select(config, "data.root")
    if not isinstance(root, str) or {"train", "test"} <= named.keys():
        return  # the root is not looked at where both have their own
    cache = select(config, "paths.cache")
    folder = Path(root).expanduser()
    if isinstance(cache, str) and folder.is_relative_to(Path(cache).expanduser()):
        return  # a set that renders itself
    if not folder.exists():
        yield (
            f"data.root={root} does not exist: type data.root=DIR, "
            f"or set TAPETUM_DATA=DIR where DIR/{folder.name} is the data{_origin(config)}"
        )


def _origin(config: Mapping[str, Any]) -> str:
    """What fetches the data and where they are published, if their layout says so."""
    target = select(config, "data.index._target_")
    module = target.rpartition(".")[0] if isinstance(target, str) else ""
    found = constant(module, "ORIGIN") if module else None
    command = constant(module, "FETCHED_BY") if module else None
    fetched = f", or fetch it with {command} {select(config, 'data.root')}" if command else ""
    return fetched + (f"; it is published at {found}" if found else "")


def _thresholds(config: Mapping[str, Any]) -> Iterator[str]:
    keys = ("low", "classification", "high")
    found = [_number(config, f"model.thresholds.{key}") for key in keys]
    values = [value for value in found if value is not None]
    if len(values) == len(keys) and not 0 <= values[0] <= values[1] <= values[2] <= 1:
        given = ", ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
        yield (
            f"model.thresholds: {given} must lie in this order between 0 and 1: "
            "type model.thresholds.low=0.3 model.thresholds.classification=0.5 model.thresholds.high=0.8"
        )


def _number(config: Mapping[str, Any], key: str) -> float | None:
    value = select(config, key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
