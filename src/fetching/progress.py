"""How far a download is: a bar on a terminal, a line at the start and the end elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from .hub import Revision, Tell


@contextmanager
def shown(revision: Revision, where: object) -> Iterator[Tell]:
    """Say on stderr what is fetched and to where, and give the callback that moves the bar."""
    console = Console(stderr=True)
    size = f"{len(revision.files)} files, {revision.size / 1e6:,.1f} MB"
    console.print(
        f"fetching {revision.repo} at {revision.commit[:12]} ({size}) into {where}",
        highlight=False,
        soft_wrap=True,
    )
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=revision.size)
        yield lambda done, total: progress.update(task, completed=done, total=total)
