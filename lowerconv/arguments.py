"""Arguments that Python and the command line take: what they may be is described once.

A field of a dataclass is described by `argument`. `check` looks at the values of an object, and
`add_arguments` makes the options of the command line, which are named after the fields. So both
take the same, and say the same of what they do not take.
"""

from __future__ import annotations

import argparse
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from math import inf, isfinite
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

KEY = "argument"  # of the metadata of a field
COUNT = 2**31 - 1  # the most of an integer where nothing less is said: no count comes near it


class Kind(ABC):
    """What an argument may be."""

    @abstractmethod
    def check(self, value: Any) -> Any:
        """Return a value as it is used; raise TypeError or ValueError where it may not be that.

        The message begins with "got", so that a name may come before it.
        """

    def read(self, text: str) -> Any:
        """Return the value that a text of the command line stands for; `check` sees it next."""
        return text

    @property
    def metavar(self) -> str | None:
        """The placeholder of a value in help; None: the name of the field."""
        return None


@dataclass(frozen=True)
class Number(Kind):
    """A number, and not infinite.

    Attributes
    ----------
    kind : type
        int or float.
    least, most : float
    below : bool
        Whether it has to be below `most`.
    """

    kind: type[int] | type[float]
    least: float
    most: float = inf
    below: bool = False

    def check(self, value: Any) -> Any:
        """Return an int or a float of Python's."""
        abstract = Integral if self.kind is int else Real
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, abstract):
            raise TypeError(f"got {value!r}, expected {self.kind.__name__}, {self}")
        number = int(value) if isinstance(value, Integral) else float(value)  # 1 stays 1
        if self.kind is int and self.most == inf and number > COUNT:
            raise ValueError(f"got {value}, expected at most {COUNT}")
        within = number < self.most if self.below else number <= self.most
        if not (self.least <= number and within and isfinite(number)):
            raise ValueError(f"got {value}, expected {self}")
        return number

    def read(self, text: str) -> Any:
        """Return the number."""
        try:
            return self.kind(text)
        except ValueError:
            raise ValueError(f"got {text!r}, expected {self.kind.__name__}, {self}") from None

    def __str__(self) -> str:
        if self.most < inf:
            return f"at least {self.least} and {'below' if self.below else 'at most'} {self.most}"
        return f"at least {self.least}" + (" and finite" if self.kind is float else "")


@dataclass(frozen=True)
class Choice(Kind):
    """One of some words."""

    words: tuple[str, ...]

    def check(self, value: Any) -> Any:
        """Return the word."""
        if not isinstance(value, str):
            raise TypeError(f"got {value!r}, expected one of {', '.join(self.words)}")
        if value not in self.words:
            raise ValueError(f"got {value!r}, expected one of {', '.join(self.words)}")
        return value

    @property
    def metavar(self) -> str | None:
        """All of them."""
        return "{" + ",".join(self.words) + "}"


@dataclass(frozen=True)
class Flag(Kind):
    """True or False; on the command line it is there or not."""

    def check(self, value: Any) -> Any:
        """Return a bool of Python's."""
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"got {value!r}, expected True or False")
        return bool(value)


@dataclass(frozen=True)
class Text(Kind):
    """A text that is not empty.

    Attributes
    ----------
    expected : str
        What it is, in words.
    empty : bool
        Whether it may be empty after all.
    """

    expected: str
    empty: bool = False

    def check(self, value: Any) -> Any:
        """Return the text."""
        if not isinstance(value, str):
            raise TypeError(f"got {value!r}, expected {self.expected}")
        if (not value and not self.empty) or "\0" in value:
            raise ValueError(f"got {value!r}, expected {self.expected}")
        return value


@dataclass(frozen=True)
class Place(Kind):
    """A path.

    Attributes
    ----------
    expected : str
        Of what, in words.
    """

    expected: str

    def check(self, value: Any) -> Any:
        """Return a Path."""
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"got {value!r}, expected the path of {self.expected}")
        text = os.fspath(value)
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError(f"got {value!r}, expected the path of {self.expected}")
        return Path(text)


@dataclass(frozen=True)
class Integers(Kind):
    """Some integers; on the command line ``3,6,9``.

    Attributes
    ----------
    expected : str
        What they are, in words.
    count : int, optional
        How many there are.
    """

    expected: str
    count: int | None = None

    def check(self, value: Any) -> Any:
        """Return a tuple of ints of Python's."""
        whole = isinstance(value, (tuple, list)) and all(
            isinstance(item, Integral) and not isinstance(item, bool) for item in value
        )
        if not whole:
            raise TypeError(f"got {value!r}, expected {self.expected}")
        if self.count is not None and len(value) != self.count:
            raise ValueError(f"got {value!r}, expected {self.expected}")
        return tuple(int(item) for item in value)

    def read(self, text: str) -> Any:
        """Return the numbers."""
        try:
            return tuple(int(part) for part in text.split(","))
        except ValueError:
            raise ValueError(f"got {text!r}, expected {self.expected}") from None


@dataclass(frozen=True)
class Ascending(Integers):
    """Some integers, each larger than the one before."""

    least: int = 0

    def check(self, value: Any) -> Any:
        """Return a tuple of ints of Python's."""
        numbers = super().check(value)
        if list(numbers) != sorted(set(numbers)) or min(numbers, default=self.least) < self.least:
            raise ValueError(f"got {value!r}, expected {self.expected}")
        return numbers


@dataclass(frozen=True)
class Argument:
    """What is known of an argument: see `argument`."""

    kind: Kind
    help: str
    metavar: str | None
    option: str | None


def argument(
    default: Any, kind: Kind, help: str = "", metavar: str | None = None, option: str | None = None
) -> Any:
    """Return a field of a dataclass that is described.

    Parameters
    ----------
    default
        None: the argument may be left out, or be None.
    kind : Kind
    help : str
        For the command line.
    metavar : str, optional
        The placeholder of the value in help.
    option : str, optional
        The name of the option, where it is not that of the field.
    """
    return field(default=default, metadata={KEY: Argument(kind, help, metavar, option)})


def described(owner: Any) -> dict[str, Argument]:
    """Return what is known of the fields of a dataclass, or of an object of it."""
    return {f.name: f.metadata[KEY] for f in fields(owner) if KEY in f.metadata}


def check(owner: Any) -> None:
    """Check all described fields of an object, which may be frozen, and have Python's own numbers.

    Raises
    ------
    TypeError, ValueError
        The message names the field, its value, and what is expected.
    """
    defaults = {f.name: f.default for f in fields(owner)}
    for name, known in described(owner).items():
        value = getattr(owner, name)
        if value is not None or defaults[name] is not None:
            object.__setattr__(owner, name, checked(name, known.kind, value))


def checked(name: str, kind: Kind, value: Any) -> Any:
    """Return the value of an argument as it is used.

    Raises
    ------
    TypeError, ValueError
        The message begins with the name.
    """
    try:
        return kind.check(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def reader(kind: Kind) -> Callable[[str], Any]:
    """Return what reads an argument of the command line, as `argparse` wants it."""

    def read(text: str) -> Any:
        try:
            return kind.check(kind.read(text))
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def add_arguments(
    group: argparse._ActionsContainer, owner: type, names: Iterable[str] | None = None
) -> None:
    """Add the options for the described fields of a dataclass; None is what is not given.

    Parameters
    ----------
    group : ArgumentParser or one of its groups
    owner : type
        The dataclass.
    names : iterable of str, optional
        Which fields; by default all.
    """
    known = described(owner)
    for name in known if names is None else names:
        about = known[name]
        option = "--" + (about.option or name).replace("_", "-")
        if isinstance(about.kind, Flag):
            group.add_argument(
                option, dest=name, action="store_true", default=None, help=about.help
            )
        else:
            metavar = about.metavar or about.kind.metavar
            group.add_argument(
                option, dest=name, type=reader(about.kind), metavar=metavar, help=about.help or None
            )
