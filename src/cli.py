"""`tapetum VERB …`: picks the verb, prints errors for people; imports nothing heavy before it is needed."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from .errors import ConfigError, TapetumError, did_you_mean

VERBS = {
    "train": "train a model, evaluate it and write a report (-m: a sweep)",
    "check": "say what a training command would run, and everything that is wrong with it",
    "evaluate": "evaluate runs, or a model with weights, on a data set",
    "predict": "say of images of your own what a model makes of them: real or generated, or embeddings",
    "gallery": "build a gallery file of a retrieval run: images of known class to compare with",
    "search": "find the images of a gallery that are most like yours, and name the class",
    "accept": "hold a retrieval run against targets of accuracy and time, and say whether it passes",
    "export": "write a tuned vision-language model as Hugging Face's libraries load it",
    "join": "take part in a run that another machine started with trainer.num_nodes",
    "report": "write a run's report again, or put runs and sweeps side by side",
    "dashboard": "a W&B workspace for the runs of a task, or a W&B report of a sweep",
    "show": "a page of images exactly as a network gets them",
    "doctor": "say whether this machine is fit for an experiment, and what to type where it is not",
    "download": "fetch a data set and write its published layout",
    "tiny": "write a tiny random model in the layout of the real one, to try things offline",
}
_HIDDEN = ("job", "jobs")
_FAILED = {"accept": 2}
"""Exit codes of failures that are not 1, which says something else of these verbs."""


def program(arguments: Sequence[str] | None = None) -> NoReturn:
    """`main` as all that a process does, which then ends with its exit code.

    What Python does at its end is done, except that it takes no object apart: of half a million, that takes
    longer than many a command.
    """
    try:
        code = main(arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    with suppress(KeyboardInterrupt):
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    os._exit(code if _flushed() else code or 1)


def _flushed() -> bool:
    """Whether all that was said could be written; a reader that is gone does not want it."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            continue
        except OSError as error:
            with suppress(OSError):
                os.write(2, f"error: the output could not be written: {error}\n".encode())
            return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; 0, 1 for a failure that its message explains, 2 for a config error, 130 if interrupted.

    `predict`, `gallery` and `search` also end with 3: done, but some images could not be read. `accept` ends
    with 1 where a target is missed, and so with 2 for every error.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        from .commands.help import overview

        print(overview(VERBS))
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS and verb not in _HIDDEN:
        near = did_you_mean(verb, VERBS)
        print(f"unknown verb {verb}{near or ':'} verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    if any(argument in ("-h", "--help") for argument in rest):
        from .commands.help import verb_help

        print(verb_help(verb))
        return 0
    return run(verb, rest)


def run(verb: str, arguments: Sequence[str]) -> int:
    """Run one verb with its arguments and turn what a user can mend into a message and an exit code."""
    try:
        code: int = import_module(f".commands.{verb}", __package__).main(arguments)
        return code
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except TapetumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if type(error).__name__ == "InterruptedRunError" else _FAILED.get(verb, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
