"""What `--help` prints: verbs, groups and their options, a line each. Imports neither Hydra nor torch."""

from __future__ import annotations

from collections.abc import Mapping

from ..config.groups import groups

_EXAMPLES = """\
examples
  tapetum train                                    the default detector on the embedded data
  tapetum train model=efficientnet_b0 data=folder data.root=photos
  tapetum train -m model=npr,efficientnet_b0 seed=1,2
  tapetum check experiment=cifake                  what would run, without running it
  tapetum evaluate RUN                             RUN is a directory such as outputs/detection/…
  tapetum predict RUN photos photos.csv            every image below a folder
  tapetum gallery RUN gallery.parquet              the training images of a retrieval run, to be searched
  tapetum search gallery.parquet query.png         the most similar ones, and the class that follows
  tapetum accept RUN target_accuracy=0.95 target_seconds=2.0    the exit code says whether it passes
  tapetum export RUN DIR merge=true                a tuned vision-language model, for transformers alone
  tapetum report RUN RUN                           runs side by side
  tapetum show data=folder data.root=photos        24 images as the network gets them
  tapetum doctor                                   what this machine has, and what it lacks
"""

_USAGE = {
    "train": "tapetum train [-m] [group=option …] [key=value …]",
    "check": "tapetum check [--json] [group=option …] [key=value …]",
    "evaluate": "tapetum evaluate RUN… [data=… data.key=value …]\n"
    "       tapetum evaluate model=… weights=FILE data=…",
    "predict": "tapetum predict RUN INPUT… OUTPUT [threshold=config|fitted|0.7]      a detector's threshold\n"
    "       tapetum predict INPUT… OUTPUT model=… weights=FILE\n"
    "       INPUT: an image, a folder, a pattern in quotes, a list (.txt, .csv), a .tar, a .parquet\n"
    "       OUTPUT: .csv, .json or .parquet",
    "gallery": "tapetum gallery RUN OUT.parquet                      what the run learnt from\n"
    "       tapetum gallery RUN OUT.parquet data=… [data.key=value …]   the gallery of other data\n"
    "       tapetum gallery RUN OUT.parquet INPUT…               images of your own, as predict takes them:\n"
    "       the class of an image is the name of the folder that it lies in",
    "search": "tapetum search GALLERY.parquet IMAGE… [k=5] [run=RUN] [out=FILE]\n"
    "       IMAGE: as predict takes them      k: neighbours to show\n"
    "       run: where the run that made the gallery is now      out: .csv, .json or .parquet",
    "accept": "tapetum accept RUN [target_accuracy=0.95] [target_seconds=2.0] [classes=[a,b]]\n"
    "       [model.decision.rule=nearest|knn|centroid] [data=… data.key=value …] [accelerator=…]\n"
    "       exit code 0: passes, 1: a target is missed, 2: an error; targets left out are model.target's",
    "export": "tapetum export RUN DIR [merge=true]      the adapter, or one model with it in its weights",
    "report": "tapetum report DIR…      a run, several runs, or a sweep's directory",
    "dashboard": "tapetum dashboard detection|captioning|retrieval|vlm [project=…] [entity=…] [mode=…]\n"
    "       tapetum dashboard SWEEP [project=…] [entity=…] [mode=…]\n"
    "       mode: online or offline; without it online where this machine is logged in (wandb login)",
    "show": "tapetum show [split=train|val|test] [group=option …] [key=value …] [OUTPUT.html]\n"
    "       tapetum show RUN [split=…] [data=… data.key=value …] [augment=…] [OUTPUT.html]",
    "doctor": "tapetum doctor [--json] [--online] [group=option …] [key=value …]\n"
    "       --online: also ask the hub and the trackers whether they answer",
    "download": "tapetum download cifake|flickr30k [DIR] [--endpoint URL] [--revision REVISION]",
    "tiny": "tapetum tiny clip|qwen_vl|instructblip|qwen3|gpt2 DIR [--seed N]\n"
    "       then model.net.backbone=DIR, of a qwen3 or gpt2 model.net.language_model=DIR",
    "join": "tapetum join RUN      on each of the other machines, as the first one prints it",
    "job": "tapetum job RUN [CHECKPOINT]      started by a launcher, not by hand",
}

COMPOSING = ("train", "check", "evaluate", "predict", "gallery", "accept", "show", "doctor")
"""Verbs that take groups and keys."""

_KEYS = {
    "name": "of the run's directory; <model>-<data> by default",
    "seed": "every random choice is a function of (seed, epoch, index)",
    "resume": "auto, a run or a checkpoint: go on in the same directory",
    "weights": "a run, a checkpoint or a published weight file to start from",
    "data.root": "where the images are; $TAPETUM_DATA/<data> by default",
    "data.batch_size": "images a step and device",
    "data.limit": "images a split, or {train: 500, test: 200}",
    "optimizer.lr": "learning rate",
    "trainer.max_epochs": "epochs",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed",
    "train.monitor": "the figure that chooses the best checkpoint",
    "callbacks.early_stopping": "null switches it off",
}


def overview(verbs: Mapping[str, str]) -> str:
    """The verbs, then every group with its options."""
    width = max(map(len, verbs))
    lines = ["tapetum VERB …   models that look at images: train, compare, ship", "", "verbs"]
    lines += [f"  {verb:<{width}}  {what}" for verb, what in verbs.items()]
    lines += [
        "",
        *_groups(),
        "",
        "keys one often sets (tapetum train --cfg job prints all)",
        *_keys(),
        "",
        _EXAMPLES,
    ]
    lines += ['shell completion   eval "$(python train.py -sc install=bash)"']
    return "\n".join(lines)


def verb_help(verb: str) -> str:
    """Usage of one verb; those that compose a config list its groups too."""
    lines = [f"usage: {_USAGE[verb]}"]
    if verb in COMPOSING:
        lines += ["", *_groups(), "", "keys one often sets", *_keys()]
    return "\n".join(lines)


def _groups() -> list[str]:
    lines = ["groups"]
    for group, options in groups().items():
        if not options:
            continue
        lines.append(f"  {group}")
        width = max(len(option.name) for option in options)
        lines += [f"    {option.name:<{width}}  {option.description}" for option in options]
    return lines


def _keys() -> list[str]:
    width = max(map(len, _KEYS))
    return [f"  {key:<{width}}  {what}" for key, what in _KEYS.items()]
