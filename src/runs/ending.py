"""How a run ended, from its files: finished, stopped by an error, or without a word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from textwrap import shorten

from .directory import RunDirectory

_RECORD = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ([A-Z]+) (.*)")
_LONGEST = 160


@dataclass(frozen=True)
class Ending:
    """finished: there are final figures. reason: the error that ended it, empty where none is recorded."""

    finished: bool
    reason: str = ""

    def sentence(self, epochs: int, wanted: int | None) -> str:
        """What a reader of an unfinished run's figures must know; empty for a finished one.

        epochs: how many were completed. wanted: trainer.max_epochs, None or -1 for no bound.
        """
        if self.finished:
            return ""
        of = f" of {wanted}" if wanted is not None and wanted > 0 else ""
        are = "epoch is" if epochs == 1 and not of else "epochs are"
        done = f"{epochs}{of} {are} complete" if epochs else "no epoch is complete"
        if self.reason:
            where = f"it crashed in epoch {epochs + 1}{of}" if not epochs else f"{done}, then it stopped"
            return f"did not finish: {where}: {self.reason}"
        return f"has not finished: {done}, and no end is recorded; it is still running, or was killed"


def ending(run: RunDirectory) -> Ending:
    """Read metrics.json's presence and the last record of train.log, which a run that fails ends with."""
    if run.finished:
        return Ending(True)
    if not run.log.is_file():
        return Ending(False)
    last: re.Match[str] | None = None
    after = ""
    with run.log.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            found = _RECORD.match(line)
            if found:
                last, after = found, ""
            elif line.strip():
                after = line.strip()
    if last is None or last[1] != "ERROR":
        return Ending(False)
    # an error that explains itself has its message in the record, any other a traceback behind it
    said = after if last[2].startswith("stopped by ") and after else last[2]
    return Ending(False, shorten(said, _LONGEST, placeholder=" …") + f" ({run.log.name})")
