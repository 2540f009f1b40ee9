"""`tapetum tiny KIND DIR`: a tiny random model in the layout of the real one, to try things offline."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TapetumError, did_you_mean

KINDS = {
    "clip": "model=clip_linear model.net.backbone={directory}",
    "qwen_vl": "model=qwen_vl model.net.backbone={directory}",
    "instructblip": "model=instructblip_lora model.net.backbone={directory}",
    "qwen3": "model=clip_qwen model.net.language_model={directory}",
    "gpt2": "model=clip_qwen model.net.language_model={directory}",
}
"""What there is, and the overrides that use it."""

_USAGE = f"tapetum tiny {'|'.join(KINDS)} DIR [--seed N]"


def main(arguments: Sequence[str]) -> int:
    """Write the model, say where it is and what to type next; the exit code."""
    kind, directory, seed = _parsed(arguments)

    from ..backbones import tiny
    from .console import console

    place = getattr(tiny, kind)(directory, seed=seed)
    console.print(f"a tiny random {kind} in {place}; to try it, type", highlight=False, soft_wrap=True)
    overrides = KINDS[kind].format(directory=place)
    console.print(f"  tapetum check {overrides}", highlight=False, soft_wrap=True)
    return 0


def _parsed(arguments: Sequence[str]) -> tuple[str, str, int]:
    """(kind, directory, seed); TapetumError for anything else."""
    places: list[str] = []
    seed = "0"
    rest = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option == "--seed":
            seed = value if equals else next(rest, "")
        elif argument.startswith("-"):
            raise TapetumError(
                f"unknown option {argument}{did_you_mean(argument, ['--seed']) or ':'} {_USAGE}"
            )
        else:
            places.append(argument)
    if len(places) != 2 or not places[1]:
        raise TapetumError(f"a kind of model and a directory are needed: {_USAGE}")
    if places[0] not in KINDS:
        raise TapetumError(
            f"unknown kind {places[0]}{did_you_mean(places[0], KINDS) or ':'} {', '.join(KINDS)}"
        )
    if not seed.isdecimal():
        raise TapetumError(f"--seed {seed!r} is not a whole number from 0 on: {_USAGE}")
    return places[0], places[1], int(seed)
