"""What a command is doing, shown on terminals for as long as it does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text


@contextmanager
def doing(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """Show a line of text; gives a function that shows another one in its place.

    Nothing turns beside it: a thread would have to, on a core that is being measured.
    """
    with Live(Text(text), console=console, auto_refresh=False, transient=True) as live:
        yield lambda text: live.update(Text(text), refresh=True)
