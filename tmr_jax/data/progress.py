"""Progress bars on standard error: what, a bar, how many of all, time gone, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

T = TypeVar("T")


def progress(
    *columns: ProgressColumn,
    console: Console | None = None,
    transient: bool = False,
    disable: bool = False,
) -> Progress:
    """A `rich` progress display to use in a `with`; standard output stays free for results.

    `columns` replace counts and times behind the bar; `transient` removes the bar at the end.
    """
    from rich import console as consoles
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())),
        console=console or consoles.Console(stderr=True),
        transient=transient,
        disable=disable,
    )


@contextmanager
def progress_of(
    what: str, total: int | None, transient: bool = False
) -> Iterator[Callable[[int], None]]:
    """Yields `on_progress(done)`, whose first call shows the bar; the block's end completes it."""
    bar = progress(transient=transient)
    task = bar.add_task(what, total=total)

    def on_progress(done: int) -> None:
        bar.start()
        bar.update(task, completed=done)

    try:
        yield on_progress
        if total is not None:
            on_progress(total)
    finally:
        bar.stop()


def track(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    transient: bool = False,
    disable: bool = False,
) -> Iterator[T]:
    """The items, with a bar that counts those that are done; `total` where they have no length."""
    with progress(transient=transient, disable=disable) as bar:
        yield from bar.track(items, total=total, description=what)
