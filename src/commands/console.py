"""Where verbs write for people."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

console = Console()


def progress_to(console: Console, what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that says now and then how far a long preparation is."""
    shown = -1

    def tell(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // total
        if tenth != shown and total >= 2000:
            shown = tenth
            console.print(f"{what} {done:,}/{total:,}", highlight=False)

    return tell
