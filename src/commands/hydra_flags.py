"""Which command lines are Hydra's own: sweeps, printing the config, shell completion."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, did_you_mean

MULTIRUN = ("-m", "--multirun")
PRINTING = ("--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--hydra-help", "--version")
OTHER = ("--shell-completion", "-sc", "--config-dir", "-cd")


def hydra_command(arguments: Sequence[str]) -> bool:
    """Whether Hydra itself has to run this line; ConfigError for a flag that nobody knows."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    known = (*MULTIRUN, *PRINTING, *OTHER)
    for flag in flags:
        if flag.split("=")[0] not in known:
            raise ConfigError(
                f"unknown option {flag}{did_you_mean(flag, known)} Settings are given as key=value, without dashes: "
                f"data.batch_size=64; a sweep is -m key=a,b"
            )
    return bool(flags)


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the line asks for a sweep."""
    return any(argument in MULTIRUN for argument in arguments)
