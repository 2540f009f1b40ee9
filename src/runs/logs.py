"""The `tapetum` logger: lines on the terminal, and the same lines with times in train.log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from ..errors import TapetumError

log = logging.getLogger("tapetum")


class ConsoleHandler(logging.Handler):
    """Prints messages as they are, above a progress bar if one is drawn."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """logging's hook."""
        style = "yellow" if record.levelno >= logging.WARNING else None
        self.console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def logging_to(file: Path, console: Console) -> Iterator[None]:
    """While open, the project's messages go to the console and are appended to a file.

    What ends it early stands in the file, too: a failure that explains itself with its message, any other
    with its traceback. The console hears of it from whoever catches it.
    """
    to_file = _handler(file)
    to_console = ConsoleHandler(console)
    log.setLevel(logging.INFO)
    log.propagate = False
    for handler in (to_file, to_console):
        log.addHandler(handler)
    try:
        with failure_in(file):
            yield
    finally:
        for handler in (to_file, to_console):
            log.removeHandler(handler)
        to_file.close()


@contextmanager
def failure_in(file: Path) -> Iterator[None]:
    """What ends the block early is the last record of a file, as `logging_to` says."""
    try:
        yield
    except BaseException as error:
        explained = isinstance(error, TapetumError)
        trace = None if explained else (type(error), error, error.__traceback__)
        said = str(error) if explained else f"stopped by {type(error).__name__}"
        handler = _handler(file)
        handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, said, (), trace))
        handler.close()
        raise


def _handler(file: Path) -> logging.Handler:
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler
