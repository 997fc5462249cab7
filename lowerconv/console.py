"""What lines and tables are printed with."""

from __future__ import annotations

from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """Prints text as it is: brackets, colons and numbers mean nothing.

    Parameters
    ----------
    least : int
        Columns that tables take, whatever the terminal has: their numbers are never cut off.
    **options
        As of rich's `Console`.
    """

    def __init__(self, least: int = 1, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)
        self.width = max(self.width, least)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError; rich would end the process, whatever it is doing."""
        raise
