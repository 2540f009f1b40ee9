"""`tapetum evaluate`: finished runs, or a model with weights, on their own or on other data.

What it writes stands beside the run's own files and never replaces them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.check import check_config
from ..config.compose import compose
from ..config.overrides import prepare
from ..errors import ConfigError, TapetumError


def main(arguments: Sequence[str]) -> int:
    """Evaluate, print one table a run, write predictions, figures and a report. The exit code."""
    runs = [one for one in arguments if "=" not in one]
    overrides = prepare([one for one in arguments if "=" in one], multirun=False)
    if runs:
        for run in runs:
            evaluate_run(run, overrides)
    else:
        evaluate_weights(overrides)
    return 0


def evaluate_run(run: str, overrides: Sequence[str] = ()) -> Path:
    """A run's best weights on its own test split, or on other data named by overrides; the new directory."""
    import torch

    from ..runs.directory import open_run
    from ..runs.loading import load_module

    own = open_run(run)
    loaded = load_module(run)
    config = dict(loaded.config)
    refused = [
        one
        for one in overrides
        if not one.lstrip("+").startswith(("data", "trainer.", "accelerator", "paths."))
    ]
    if refused:
        raise ConfigError(
            f"{refused[0]} would change the run's model: evaluate RUN takes data=…, data.key=…, accelerator=… only"
        )
    name = "own"
    if overrides:
        other = compose(overrides)
        check_config(other)
        keeps = not any(one.startswith("data=") for one in overrides)
        config["data"] = _merged(config["data"], overrides) if keeps else other.config["data"]
        config["trainer"] = config["trainer"] | {
            key: other.config["trainer"][key] for key in ("accelerator", "devices", "precision")
        }
        name = "own" if keeps else other.choices["data"]
    directory = own.path / "evaluations" / f"{name}-{secrets.token_hex(3)}"
    threshold = _threshold(own.path)
    with torch.inference_mode():
        return _evaluate(
            config, loaded.module, directory, title=f"{config['name']} on {name}", threshold=threshold
        )


def evaluate_weights(overrides: Sequence[str]) -> Path:
    """A network with a published weight file, or one that needs no training, on a data set; the new directory."""
    from ..runs.building import build_module, build_network
    from ..runs.directory import stamp
    from .weights import start_from

    composed = compose(overrides)
    check_config(composed)
    config = composed.config
    if config["model"]["fit"] and not config["weights"]:
        raise TapetumError(
            "tapetum evaluate needs a run (tapetum evaluate outputs/detection/…) or weights "
            "(tapetum evaluate model=… weights=FILE data=…): this model has not been trained"
        )
    net = build_network(config)
    if config["weights"]:
        start_from(net, config["weights"])
    module = build_module(config, net, train=False)
    directory = Path(config["paths"]["outputs"]) / config["task"] / config["name"] / stamp()
    return _evaluate(config, module, directory, title=config["name"], threshold=None)


def _evaluate(
    config: dict[str, Any], module: Any, directory: Path, *, title: str, threshold: float | None
) -> Path:
    import sys

    from ..runs.building import build_datamodule, build_index
    from ..runs.directory import RunDirectory, create_run, write_json
    from ..runs.environment import environment
    from .console import console, progress_to
    from .finish import figures, infer, report_run, show, write_results

    index = build_index(config)
    data = build_datamodule(config, index, module, progress_to(console, "decoding"))
    splits = [split for split in ("val", "test") if len(index.rows(split))]
    if not splits:
        raise TapetumError(f"{config['data']['root']} has neither a val nor a test split to evaluate on")
    predictions = infer(module, data, splits, trainer=config["trainer"])
    run: RunDirectory = create_run(config, directory)
    run.checkpoints.rmdir()
    run.command.write_text(" ".join(sys.argv) + "\n")
    write_json(run.environment, environment())
    metrics = figures(predictions, threshold=threshold)
    write_results(run, predictions, metrics)
    page = report_run(run, index.roots)
    show(metrics, monitor=None, title=title, console=console)
    console.print(f"written {directory}\nreport  {page}", highlight=False, soft_wrap=True)
    return directory


def _merged(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A run's data with single keys replaced: `data.root=…` keeps the rest as the run had it."""
    from omegaconf import OmegaConf

    changes = OmegaConf.from_dotlist(
        [one.lstrip("+") for one in overrides if one.lstrip("+").startswith("data.")]
    )
    merged = OmegaConf.to_container(
        OmegaConf.merge(OmegaConf.create({"data": dict(data)}), changes), resolve=True
    )
    assert isinstance(merged, dict), "a mapping was merged"
    result: dict[str, Any] = merged["data"]
    return result


def _threshold(run: Path) -> float | None:
    """The threshold that the run fitted on its own validation split."""
    import json

    file = run / "metrics.json"
    return json.loads(file.read_text()).get("val/threshold") if file.is_file() else None
