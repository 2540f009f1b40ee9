"""The keys of a config that are no arguments of anything built: the root, `paths`, `train`, `data`.

Read as source like every other signature; a field without a default must be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Root:
    """The top level; groups are mappings."""

    seed: int
    resume: str | None
    weights: str | None
    allow_targets: list[str]
    paths: dict[str, Any]
    trainer: dict[str, Any]
    train: dict[str, Any]
    task: Literal["detection", "captioning", "retrieval", "vlm"]
    model: dict[str, Any]
    data: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None
    augment: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    launcher: dict[str, Any]
    sweep: dict[str, Any] | None = None
    name: str | None = None


@dataclass(frozen=True)
class Paths:
    """Folders of this machine."""

    data: str
    outputs: str
    cache: str


@dataclass(frozen=True)
class Train:
    """What is not the Trainer's."""

    monitor: str
    mode: Literal["min", "max"]
    compile: bool
    channels_last: bool
    timeout_minutes: float
    report: bool


@dataclass(frozen=True)
class Data:
    """What becomes the Index; the rest of `data` are arguments of the task's DataModule."""

    root: str
    roots: dict[str, str] | None
    limit: int | dict[str, int] | None
    val_fraction: float
    index: dict[str, Any]
    rescan: bool = False


@dataclass(frozen=True)
class PerSplit:
    """Keys of `data.roots` and of a `data.limit` that differs from split to split."""

    train: Any = None
    val: Any = None
    test: Any = None


@dataclass(frozen=True)
class Geometry:
    """Fields of the network's InputSpec to replace; one number is a square."""

    size: int | list[int] | None = None
    resize: Literal["none", "shortest", "squash", "pad", "tile"] = "squash"
    crop: int | list[int] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    channels: Literal[1, 3] = 3
    strict: bool = False


@dataclass(frozen=True)
class Launcher:
    """Where a sweep's jobs run, and how many at a time; of a cluster also what each is given.

    preload: here, whether a job is forked from a process that has imported its libraries.
    """

    place: Literal["local", "cluster"]
    jobs: int
    stop_on_failure: bool
    preload: bool = False
    cluster: Literal["slurm", "local"] = "slurm"
    timeout_min: int = 720
    signal_delay_s: int = 120
    cpus_per_task: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    setup: list[str] | None = None


@dataclass(frozen=True)
class Sweep:
    """How a search goes about it: `conf/sweep/`; a grid needs none of it.

    trials: of this sweep, those that fail or are pruned included. warmup: epochs that every trial gets before
    it may be pruned. startup_trials: that finish before tpe and cmaes learn from them and median prunes.
    objectives: figure of metrics.json → max or min; null = train.monitor and train.mode. storage:
    FILE.journal or sqlite:///FILE; null = in the sweep's directory. study: its name there; null = the
    directory's.
    """

    trials: int
    sampler: Literal["tpe", "cmaes", "random", "grid", "nsga2"]
    seed: int
    pruner: Literal["median", "halving", "hyperband", "none"] = "none"
    warmup: int = 1
    startup_trials: int = 5
    objectives: dict[str, str] | None = None
    storage: str | None = None
    study: str | None = None


# Mappings without a `_target_` and the class here, or elsewhere, whose fields are their keys.
MAPPINGS: dict[str, str] = {
    "": "tapetum.config.schema.Root",
    "paths": "tapetum.config.schema.Paths",
    "train": "tapetum.config.schema.Train",
    "launcher": "tapetum.config.schema.Launcher",
    "sweep": "tapetum.config.schema.Sweep",
    "trainer": "lightning.pytorch.Trainer",
    "data.roots": "tapetum.config.schema.PerSplit",
    "data.limit": "tapetum.config.schema.PerSplit",
    "model.geometry": "tapetum.config.schema.Geometry",
    "model.thresholds": "tapetum.metrics.thresholds.Thresholds",
    "model.generation": "tapetum.backbones.generation.Generation",
}

# Of these some keys are enough; the others must be complete.
INCOMPLETE = frozenset(
    {"trainer", "data.roots", "data.limit", "model.geometry", "model.thresholds", "model.generation"}
)

# Keys of a node that the wiring reads itself, besides the arguments of the node's target.
BESIDES: dict[str, str] = {"data": "tapetum.config.schema.Data"}

# Arguments that the program fills in, and what to type instead of setting them in a config.
PROVIDED: dict[str, dict[str, str]] = {
    "trainer": {
        "barebones": "leave it out: a run keeps its checkpoints and curves",
        "callbacks": "type callbacks=NAME, or callbacks.NAME._target_=CLASS",
        "default_root_dir": "type paths.outputs=DIR",
        "enable_checkpointing": "type callbacks.checkpoint.every_n_epochs=N",
        "enable_model_summary": "leave it out: tapetum check prints the parameters",
        "enable_progress_bar": "leave it out: the bar shows itself on terminals only",
        "logger": "type logger=NAME",
        "plugins": "type accelerator=NAME, or trainer.precision=bf16-mixed",
        "use_distributed_sampler": "leave it out: every rank reads its own share already",
    },
    "model": {
        "optimizer": "type optimizer=NAME",
        "scheduler": "type scheduler=NAME",
        "monitor": "type train.monitor=val/METRIC",
        "mode": "type train.mode=max",
        "class_counts": "leave it out: it is counted from the training split",
        "channels_last": "type train.channels_last=true",
        "log_every_n_steps": "type trainer.log_every_n_steps=N",
    },
    "data": {
        "input_spec": "type model.geometry.size=[H,W]",
        "augment": "type augment=NAME",
        "seed": "type seed=N",
        "cache_dir": "type paths.cache=DIR",
        "progress": "leave it out",
        "network": "type data.cache=features",
        "encode": "leave it out: it is the network's own",
        "question": "type model.prompt='…' model.answers=[…,…]",
        "precision": "type trainer.precision=bf16-mixed",
    },
    "data.index": {"root": "type data.root=DIR"},
    "optimizer": {"params": "leave it out: they are the network's"},
    "scheduler": {"optimizer": "type optimizer=NAME", "horizon": "type trainer.max_epochs=N"},
    "callbacks.checkpoint": {
        "directory": "type paths.outputs=DIR",
        "monitor": "type train.monitor=val/METRIC",
        "mode": "type train.mode=max",
    },
    "logger.tensorboard": {"directory": "type paths.outputs=DIR"},
    "logger.wandb": {"directory": "type paths.outputs=DIR"},
    "logger.mlflow": {"directory": "type logger.mlflow.tracking_uri=sqlite:///DIR/mlflow.db"},
}

# Besides the nodes above, those that get arguments at run time, so that required ones may be absent.
COMPLETED_BELOW = ("callbacks", "logger")

# Columns of the Index that a task can't do without; of `a|b` one is enough.
COLUMNS: dict[str, tuple[str, ...]] = {
    "detection": ("label",),
    "captioning": ("captions",),
    "retrieval": ("label", "class"),
    "vlm": ("messages|label",),
}

# Columns with which a layout that lacks the second one is another task's: its labels mean something else.
FOREIGN: dict[str, tuple[str, str]] = {"detection": ("class", "generator"), "vlm": ("class", "generator")}

# Keys that say how a trained network answers, which predict and evaluate may therefore change.
ANSWERING: dict[str, tuple[str, ...]] = {
    "detection": ("model.thresholds.",),
    "captioning": ("model.generation.",),
    "retrieval": (),
    "vlm": (
        "model.thresholds.",
        "model.generation.",
        "model.prompt",
        "model.answers",
        "model.answer_score",
    ),
}

# A model of each task, for commands that compose data alone: the task decides whose arguments `data` has.
ANY_MODEL: dict[str, str] = {
    "detection": "npr_64",
    "captioning": "pixel_llm_small",
    "retrieval": "small_embedder",
    "vlm": "instructblip_small",
}

# What each task logs on validation, and which way it improves.
METRICS: dict[str, dict[str, str]] = {
    "detection": {
        "val/loss": "min",
        "val/accuracy": "max",
        "val/balanced_accuracy": "max",
        "val/precision": "max",
        "val/recall": "max",
        "val/f1": "max",
        "val/auroc": "max",
        "val/ap": "max",
        "val/real_accuracy": "max",
        "val/fake_accuracy": "max",
        "train/loss": "min",
        "train/accuracy": "max",
    },
    "captioning": {
        "val/loss": "min",
        "val/perplexity": "min",
        "val/exact_match": "max",
        "val/bleu_1": "max",
        "val/bleu_2": "max",
        "val/bleu_3": "max",
        "val/bleu_4": "max",
        "val/rouge_l": "max",
        "val/cider": "max",
        "train/loss": "min",
    },
    "retrieval": {
        "val/recall_at_1": "max",
        "val/recall_at_5": "max",
        "val/recall_at_10": "max",
        "val/map": "max",
        "val/map_at_r": "max",
        "val/r_precision": "max",
        "val/minp": "max",
        "val/nn_accuracy": "max",
        "val/nn_balanced_accuracy": "max",
        "val/knn_accuracy": "max",
        "val/knn_balanced_accuracy": "max",
        "val/centroid_accuracy": "max",
        "val/centroid_balanced_accuracy": "max",
        "train/loss": "min",
    },
    "vlm": {
        "val/loss": "min",
        "val/perplexity": "min",
        "val/accuracy": "max",
        "val/balanced_accuracy": "max",
        "val/precision": "max",
        "val/recall": "max",
        "val/f1": "max",
        "val/auroc": "max",
        "val/ap": "max",
        "val/real_accuracy": "max",
        "val/fake_accuracy": "max",
        "val/written_accuracy": "max",
        "val/invalid": "min",
        "val/exact_match": "max",
        "val/token_f1": "max",
        "val/rouge_l": "max",
        "train/loss": "min",
    },
}

# What each task computes of a split of its own accord: names that a metric of the user's can't have.
FIGURES: dict[str, tuple[str, ...]] = {
    "detection": (
        *(name.removeprefix("val/") for name in METRICS["detection"] if name.startswith("val/")),
        *("nll", "brier", "ece", "threshold"),
        *("accuracy_tuned", "real_accuracy_tuned", "fake_accuracy_tuned"),
    ),
    **{
        task: tuple(name.removeprefix("val/") for name in METRICS[task])
        for task in ("captioning", "retrieval", "vlm")
    },
}
