"""A progress bar that does not disturb what is measured: it has no thread of its own and draws between turns only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeconv.bench.measure import Progress

if TYPE_CHECKING:
    from rich.console import Console

_INTERVAL = 0.25


@contextmanager
def show_progress(console: Console) -> Iterator[Progress]:
    """Show a bar on `console` for the time of the block; yield what to pass as ``benchmark(progress=…)``.

    The bar vanishes at the end. On a console that is no terminal nothing is drawn.
    """
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    bar = Bar(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("", total=1.0)
        shown: tuple[str, float] = ("", 0.0)

        def tell(what: str, done: float) -> None:
            nonlocal shown
            now = time.monotonic()
            if what != shown[0] or now - shown[1] >= _INTERVAL:
                bar.update(task, description=what, completed=done)
                bar.refresh()
                shown = (what, now)

        yield tell
