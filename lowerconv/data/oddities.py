"""What is left out of a folder of images, so that it can be told."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from lowerconv.data.dataset import DataWarning

_SHOWN = 3  # names of each kind


class Oddities:
    """Files and folders of a data set that are not what they may have been meant for.

    Parameters
    ----------
    root : Path
        The folder that names are told relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._left_out: dict[str, list[Path]] = defaultdict(list)
        self._notes: dict[str, list[Path]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._left_out)

    def __str__(self) -> str:
        return ", ".join(self._words(kind, paths) for kind, paths in self._left_out.items())

    def add(self, kind: str, path: Path) -> None:
        """Add what is left out; `kind` is in the plural."""
        self._left_out[kind].append(path)

    def note(self, kind: str, path: Path) -> None:
        """Add what is taken, but is worth knowing."""
        self._notes[kind].append(path)

    def include(self, others: Oddities) -> None:
        """Add what is left out of a part."""
        for kind, paths in others._left_out.items():
            self._left_out[kind] += paths

    def compare_names(self, kind: str, paths: Iterable[Path]) -> None:
        """Add paths whose names differ in upper and lower case only: the same thing twice?"""
        seen: dict[str, Path] = {}
        for path in paths:
            other = seen.setdefault(path.name.casefold(), path)
            if other is not path:
                self._notes[f"{kind} with names that differ in case only"] += [other, path]

    def tell(self) -> None:
        """Warn of all there is."""
        told = [f"left out {self}"] if self else []
        told += [self._words(kind, list(dict.fromkeys(p))) for kind, p in self._notes.items()]
        if told:
            text = f"lowerconv: {os.fspath(self.root)}: {'; '.join(told)}"
            warnings.warn(text, DataWarning, stacklevel=4)

    def _words(self, kind: str, paths: list[Path]) -> str:
        """Return what they are, how many there are, and the first names."""
        names = [os.fspath(path.relative_to(self.root)) for path in paths[:_SHOWN]]
        more = ", ..." if len(paths) > _SHOWN else ""
        return f"{kind} ({len(paths):,}: {', '.join(names)}{more})"
