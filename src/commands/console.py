"""Where verbs write for people."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

console = Console()

_LONG = 5000  # images; less is decoded before anybody wonders


def progress_to(console: Console, what: str) -> Callable[[int, int], None]:
    """A callback (done, total) that says now and then how far a long preparation is."""
    shown = -1

    def tell(done: int, total: int) -> None:
        nonlocal shown
        quarter = 4 * done // total
        if quarter != shown and total >= _LONG:
            shown = quarter
            console.print(f"{what} {done:,}/{total:,}", highlight=False)

    return tell
