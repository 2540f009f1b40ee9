"""Learning rate and batch size searched before a run, by Lightning's finders on a training of their own.

Inside a fit a finder would leave the schedule's base rates, its length and the recorded config as they
were; so the search runs first, on objects that are thrown away, and the run starts with what it found.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from ..indexes.table import Index
    from ..runs.directory import RunDirectory

log = logging.getLogger("tapetum")

FINDERS = {
    "lightning.pytorch.callbacks.LearningRateFinder": "optimizer.lr",
    "lightning.pytorch.callbacks.BatchSizeFinder": "data.batch_size",
}
"""What each finder decides. The batch size is searched first, since the rate depends on it."""


def is_finder(node: Any) -> bool:
    """Whether a node of `callbacks` is one of Lightning's finders."""
    return isinstance(node, Mapping) and node.get("_target_") in FINDERS


def search(run: RunDirectory, config: Mapping[str, Any], index: Index) -> dict[str, Any]:
    """The config with what the finders of `callbacks` found, which also stands in `found.json` of the run.

    A run that goes on takes its found values from there. Raises ConfigError where a finder can't work.
    """
    from ..runs.directory import write_json

    nodes = [node for node in config["callbacks"].values() if is_finder(node)]
    result = dict(config)
    if not nodes or not config["model"]["fit"] or config["trainer"].get("fast_dev_run"):
        return result
    file = run.path / "found.json"
    if file.is_file():
        found = json.loads(file.read_text())
    else:
        found = {}
        for node in sorted(nodes, key=lambda node: FINDERS[node["_target_"]]):
            key = FINDERS[node["_target_"]]
            found[key] = _find(node, _with(result, found), index)
            log.info("found %s=%.4g", key, found[key])
        write_json(file, found)
    return _with(result, found)


def _find(node: Mapping[str, Any], config: Mapping[str, Any], index: Index) -> float | int:
    """Let one finder search; config is what the run would start with."""
    import lightning
    from lightning.pytorch.tuner.tuning import Tuner

    from ..launch.world import cluster_environment, world_size
    from ..runs.building import build_datamodule, build_module, build_network
    from ..tasks import task_of

    if world_size(config["trainer"]) > 1:
        raise ConfigError(
            f"{node['_target_']} searches in one process: type trainer.devices=1, then set what it found"
        )
    lightning.seed_everything(config["seed"], workers=False, verbose=False)
    module = build_module(config, build_network(config), learnt_from=task_of(config).learnt_from(index))
    data = build_datamodule(config, index, module)
    options = {
        key: value for key, value in node.items() if key not in ("_target_", "attr_name", "update_attr")
    }
    with tempfile.TemporaryDirectory() as scratch:
        settings = {key: config["trainer"][key] for key in ("accelerator", "devices", "precision")}
        tuner = Tuner(
            lightning.Trainer(
                **settings,
                max_epochs=10_000,  # a search counts steps, and a small epoch must not end it
                gradient_clip_val=config["trainer"].get("gradient_clip_val"),
                accumulate_grad_batches=config["trainer"].get("accumulate_grad_batches") or 1,
                logger=False,
                plugins=[cluster_environment()],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=scratch,
            )
        )
        if FINDERS[node["_target_"]] == "data.batch_size":
            most = min(options.get("max_val", 8192), len(index.rows("train")))
            found = int(tuner.scale_batch_size(module, datamodule=data, **{**options, "max_val": most}) or 1)
            return (
                max(1, found // 2) if found >= most else found
            )  # the size that ends the search was never tried
        options["num_training"] = options.pop("num_training_steps", 100)
        finder = tuner.lr_find(module, datamodule=data, update_attr=False, **options)
    suggested = finder.suggestion(skip_begin=min(10, options["num_training"] // 4)) if finder else None
    if suggested is None:
        raise TrainingError(
            f"no learning rate between {options['min_lr']:g} and {options['max_lr']:g} made the loss fall: "
            f"type "
            "callbacks=default and optimizer.lr=1e-4, or widen callbacks.lr_finder.min_lr and max_lr"
        )
    return float(suggested)


def _with(config: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the config in which dotted keys have the values that were found."""
    result = dict(config)
    for key, value in found.items():
        group, name = key.split(".")
        result[group] = {**result[group], name: value}
    return result
