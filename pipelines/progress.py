"""Progress bars with the remaining time on a terminal, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[..., None]


@contextmanager
def bars() -> Iterator[Callable[[str, int], Advance]]:
    """Yields a function that adds a bar, (title, total), and returns what to call after each step, with anything."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def add(title: str, total: int) -> Advance:
            bar = progress.add_task(title, total=total)
            return lambda *_: progress.advance(bar)

        yield add
