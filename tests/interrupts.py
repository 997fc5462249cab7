"""Ctrl-C at every moment at which Python may deliver it, one after the other.

Python handles signals between two of its instructions: after calls, where functions begin, and
where loops turn.  A trace function is told of every instruction before it runs; a signal that it
makes pending is handled at the next of these moments, exactly as one that a user sends then.
"""

import _thread
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple


class _Pending:
    """``_Pending()[number]`` makes a signal pending and, unlike a call, has it handled later."""

    __getitem__ = staticmethod(_thread.interrupt_main)


PENDING = _Pending()


class Moment(NamedTuple):
    """Before an instruction, when it runs for the nth time."""

    code: CodeType
    instruction: int
    turn: int

    def __str__(self) -> str:
        lines = (n for begin, end, n in self.code.co_lines() if begin <= self.instruction < end)
        place = f"{self.code.co_filename}:{next(lines, 0)}, in {self.code.co_name}"
        return f"{place}, before instruction {self.instruction} when it runs for the {self.turn}th"


def _trace(action: Callable[[], object], sends: Callable[[CodeType, int], bool]) -> None:
    """Run an action; there is a signal before the instruction for which `sends` returns true."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode" and sends(frame.f_code, frame.f_lasti):
            sys.settrace(None)  # this is a function too, and would be the first to be interrupted
            PENDING[signal.SIGINT]
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)


def moments(action: Callable[[], object]) -> list[Moment]:
    """Return the moments of an action: each instruction, the first time and the last."""
    turns: dict[tuple[CodeType, int], int] = {}

    def count(code: CodeType, instruction: int) -> bool:
        turns[code, instruction] = turns.get((code, instruction), 0) + 1
        return False

    _trace(action, count)
    return [
        Moment(*place, turn)
        for place, last in turns.items()
        for turn in sorted({1, last})
        if not _is_lost_in_python(place[0])
    ]


def _is_lost_in_python(code: CodeType) -> bool:
    """Return whether Python's own code is not made for an interrupt there.

    `io.BufferedReader` asks a stream whether it is readable, then where it is, and forgets any
    error of that: in which the interrupt comes to be raised.  `logging` takes its lock before a
    fork and gives it back afterwards, in functions whose errors `os.fork` forgets: it would stay
    locked, and hang the next thread that logs.
    """
    path = Path(code.co_filename)
    if code.co_name in ("readable", "tell") and path.stem == "_compression":
        return True
    return path.parent.name == "logging" and code.co_name in ("_acquireLock", "_releaseLock")


def interrupt(action: Callable[[], object], moment: Moment) -> KeyboardInterrupt | None:
    """Interrupt an action; return the error by which it ended, None if it did not come so far."""
    left = moment.turn

    def sends(code: CodeType, instruction: int) -> bool:
        nonlocal left
        left -= code is moment.code and instruction == moment.instruction
        return left == 0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _trace(action, sends)
    except KeyboardInterrupt as error:
        return error
    finally:
        signal.signal(signal.SIGINT, before)
    assert left, f"nobody heard of the interrupt: {moment}"
    return None


def interrupts(
    action: Callable[[], object],
    most: int | None = None,
    prepare: Callable[[], object] = int,
    may_be_lost: bool = False,
) -> Iterator[Moment]:
    """Interrupt an action at every moment; yields after each, for what is left to be checked.

    Parameters
    ----------
    action : callable
        Runs once before, so that nothing is compiled or cached in it.
    most : int, optional
        Of all moments take so many by chance.
    prepare : callable
        Runs before each time, uninterrupted.
    may_be_lost : bool
        Whether Python may find nobody to tell of the interrupt.
    """
    prepare()
    action()
    prepare()
    found = moments(action)
    assert found
    if most is not None and most < len(found):
        seed = random.SystemRandom().randrange(2**32)
        print(f"seed {seed}")
        found = random.Random(seed).sample(found, most)
    ended = 0
    for moment in found:
        prepare()
        # Held as interactive Python holds it, with all its frames: what would be put right when
        # these are forgotten is not yet.
        error = None
        try:
            error = interrupt(action, moment)
            lost = False
        except AssertionError:
            if not may_be_lost:
                raise
            lost = True
        if lost or error is not None:
            ended += 1
            print(moment)
            yield moment
    assert 2 * ended > len(found)  # few are gone where others are faster or slower
