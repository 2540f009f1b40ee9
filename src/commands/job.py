"""`tapetum job RUN [CHECKPOINT]`: what a launched process does. It composes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TapetumError

if TYPE_CHECKING:
    from ..runs.directory import RunDirectory

_INTERRUPTED = 130
_YIELD_S = 2.0


def main(arguments: Sequence[str]) -> int:
    """Execute a prepared run, on as many processes as its config asks for; the exit code.

    A run that a search gave up ends well: `pruned.json` says that it did.
    """
    from ..launch.watch import watch
    from ..runs.directory import open_run
    from ..runs.early_end import PrunedRunError
    from ..runs.lock import held
    from .train import launch

    if len(arguments) not in (1, 2):
        raise TapetumError("tapetum job is started by a launcher: tapetum job RUN [CHECKPOINT]")
    run = open_run(arguments[0])
    watch(run)
    config, checkpoint = run.read_config(), Path(arguments[1]) if len(arguments) == 2 else None
    if "LOCAL_RANK" in os.environ:  # one of several, and the process that started them holds the run
        return _one_of_several(run, config, checkpoint)
    try:
        with held(run):
            launch(run, config, checkpoint=checkpoint)
    except PrunedRunError:
        return 0
    return 0


def _one_of_several(run: RunDirectory, config: Mapping[str, Any], checkpoint: Path | None) -> int:
    """Execute the run and, where that fails, leave word of it for the process that started this one.

    Only the first to fail has something to say, the others have lost it. What explains itself is told by
    the starting process; anything else ends here with its traceback.
    """
    from ..launch.libraries import libraries_of, load_libraries

    load_libraries(libraries_of(config))
    from ..runs.early_end import EarlyEnd, PrunedRunError, lost_another, say_early_end, waited_in_vain
    from ..runs.interrupt import InterruptedRunError
    from .train import execute

    rank = int(os.environ["RANK"])
    try:
        execute(run, config, checkpoint=checkpoint)
    except PrunedRunError:
        return 0
    except (KeyboardInterrupt, InterruptedRunError) as error:
        say_early_end(run, EarlyEnd("interrupted", rank, str(error) or "interrupted", explained=True))
        return _INTERRUPTED
    except TapetumError as error:
        say_early_end(run, EarlyEnd("failed", rank, str(error), explained=True))
        return 1
    except Exception as error:
        message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        lost = lost_another(str(error)) or waited_in_vain(str(error))
        if lost:
            time.sleep(_YIELD_S)  # the other one may be about to say why it is gone
        if say_early_end(run, EarlyEnd("failed", rank, message, explained=lost)) and not lost:
            raise
        return 1
    return 0
