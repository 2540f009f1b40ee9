"""Which command lines are Hydra's own: sweeps, printing the config, shell completion."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError, did_you_mean

MULTIRUN = ("-m", "--multirun")
COMPLETION = ("-sc", "--shell-completion")
VALUED = ("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd")
PLAIN = ("--resolve", "--hydra-help", "--version")


def hydra_command(arguments: Sequence[str]) -> bool:
    """Whether Hydra itself has to run this line; ConfigError for a flag that nobody knows."""
    return bool(split(arguments)[0])


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether the line asks for a sweep."""
    return any(argument in MULTIRUN for argument in arguments)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags with their values, and the overrides; ConfigError for a flag that nobody knows.

    What stands beside a shell-completion flag (`install=bash`) is Hydra's too.
    """
    if any(argument in COMPLETION for argument in arguments):
        return list(arguments), []
    flags: list[str] = []
    overrides: list[str] = []
    known = (*MULTIRUN, *COMPLETION, *VALUED, *PLAIN)
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        name = word.split("=")[0]
        if name not in known:
            raise ConfigError(
                f"unknown option {word}{did_you_mean(word, known) or ':'} settings are given as key=value, "
                f"without "
                f"dashes: data.batch_size=64; a sweep is -m key=a,b"
            )
        flags.append(word)
        if name in VALUED and "=" not in word and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            flags.append(rest.pop(0))
    return flags, overrides
