"""What copies and pickles of objects are: objects that refer to each other, or an error.

Much here knows addresses of memory, threads or files of this process. A copy of an address is a
crash; so a class whose objects have such makes copies anew (``__reduce__``), or refuses them.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


def not_copied(instead: str) -> Callable[[C], C]:
    """Return a class decorator: objects can be neither copied nor pickled.

    Parameters
    ----------
    instead : str
        What to do instead, for the TypeError that they raise.
    """

    def refuse(self: Any, protocol: Any = None) -> Any:
        raise TypeError(
            f"{type(self).__name__} can be neither copied nor pickled, as it belongs to this "
            f"process: {instead}"
        )

    def decorate(cls: C) -> C:
        cls.__reduce_ex__ = refuse  # type: ignore[method-assign]
        return cls

    return decorate


class Reference(Generic[T]):
    """A reference that is copied and pickled with its object, whose copy it does not keep alive.

    The copy refers to the copy of the object, which stays where something else that was copied
    along has it: ``copy.deepcopy((network, optimizer))``. Where the one who refers was copied
    alone, nothing has it, and that can be told, instead of working on an object nobody sees.

    Parameters
    ----------
    referent : object
        Kept alive by the original.

    Attributes
    ----------
    weak : callable
        Returns the object, None where it is gone; at once, and not for sure: one that refers to
        itself may be about to be found to be garbage.

    Examples
    --------
    >>> import copy
    >>> class Thing:
    ...     pass
    >>> thing = Thing()
    >>> reference = Reference(thing)
    >>> both = copy.deepcopy((reference, thing))
    >>> both[0]() is both[1]
    True
    >>> copy.deepcopy(reference)() is None
    True
    """

    def __init__(self, referent: T) -> None:
        self._kept: T | None = referent
        self._unsure = False
        self.weak: Callable[[], T | None] = weakref.ref(referent)

    def __call__(self) -> T | None:
        """Return the object, None where it is gone."""
        if self._unsure:
            self._unsure = False
            gc.collect()
        return self.weak()

    def __reduce__(self) -> tuple[Any, ...]:
        return _referring, (self.weak(),)


def _referring(referent: T | None) -> Reference[T]:
    """Return a reference that does not keep an object alive."""
    reference: Reference[T] = Reference.__new__(Reference)
    reference._kept, reference._unsure = None, True
    reference.weak = (lambda: None) if referent is None else weakref.ref(referent)
    return reference
