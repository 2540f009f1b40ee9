"""`tapetum export RUN OUT`: a tuned model, as Hugging Face's libraries load it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from .predict import key_of, parted

_USAGE = "tapetum export RUN OUT [merge=true] [allow_targets=[…]]"


def main(arguments: Sequence[str]) -> int:
    """Write the directory, and say what loads it. The exit code."""
    paths, words = parted(arguments, _USAGE)
    if len(paths) != 2:
        named = ", ".join(paths) or "nothing"
        raise ConfigError(f"a run and a directory are needed, and there is {named}: {_USAGE}")
    given = dict(word.split("=", 1) for word in words)
    unknown = [key_of(word) for word in words if key_of(word) not in ("merge", "allow_targets")]
    if unknown:
        raise ConfigError(f"{unknown[0]} says nothing to export: {_USAGE}")
    merge = given.get("merge", "false").lower()
    if merge not in ("true", "false"):
        raise ConfigError(f"merge={given['merge']}: true (one model) or false (the adapter alone)")
    allow = [one.strip() for one in given.get("allow_targets", "").strip("[]").split(",") if one.strip()]

    from ..launch.libraries import load_libraries
    from .console import console

    load_libraries()
    place = export(paths[0], paths[1], merge=merge == "true", allow_targets=allow)
    console.print(f"written {place}", highlight=False, soft_wrap=True)
    for line in [*_loads_it(place, merge == "true"), *_lacks(place)]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


def export(
    run: str | Path, out: str | Path, *, merge: bool = False, allow_targets: Sequence[str] = ()
) -> Path:
    """The best weights of a run, or those of one of its checkpoints, as a directory; its path.

    merge: see `export.language.export_model`. Raises ConfigError for a run of another task, and what loading
    the run raises.
    """
    from ..export.language import export_model
    from ..runs.loading import load_module

    loaded = load_module(run, allow=allow_targets)
    if not hasattr(loaded.module.net, "save_beside"):
        raise ConfigError(
            f"{run} is a run of {loaded.config['task']}, whose checkpoints tapetum.load reads; export is for "
            "vision-language models (python train.py model=instructblip_lora)"
        )
    return export_model(loaded.module.net, out, merge=merge)


def _lacks(place: Path) -> list[str]:
    """What to do where the base's processor was never fetched: a run does without its files."""
    from ..backbones.repository import PROCESSOR_FILES

    if any((place / name).is_file() for name in PROCESSOR_FILES):
        return []
    return [
        "  no processor stands beside it, since the base model's is not on this machine: where there is a "
        f"network, type hf download BASE --include '*processor*' --local-dir {place}"
    ]


def _loads_it(place: Path, merged: bool) -> list[str]:
    if merged:
        return [f"  AutoModelForImageTextToText.from_pretrained('{place}')  # transformers alone"]
    return [f"  PeftModel.from_pretrained(base, '{place}')  # base: the model that adapter_config.json names"]
