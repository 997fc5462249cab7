r"""How a job reaches the threads of a team and comes back: generated code, without locks.

Each thread has a count of its own jobs, in a slot that nobody but the caller writes::

    launch:   job -> shared line      jobs[w] += 1      work as thread 0    wait for pending == 0
                                         |                                        ^
    serve(w):                  spin on jobs[w], or sleep -> wake 2w+1, 2w+2 -> work -> pending -= 1

Work is claimed before it begins: what a thread that sleeps, or whose core is taken, has not begun
when the caller has done its own, the caller does for it.

A thread that waits spins for a while, because the next job of a network is microseconds away, and
then sleeps in the kernel until its counter changes (futex(2), Linux; elsewhere it naps and looks
again).  Who is woken wakes two others before it works, so that many are awake in few steps.

Waiting for memory to change and the orders of loads and stores follow "Futexes are tricky"
(Drepper, 2011): whoever sleeps says so first and looks once more; whoever hands over writes first
and then looks who sleeps.

Launches can be captured, and made again all in one call: `capture` and `replay`.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
import timeit
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I32, I64, Builder, new_function
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.jit import load, load_once

# The state of a team in 64-bit words.  A slot is two cache lines, which CPUs fetch in pairs.
SLOT_WORDS = 16
# The first three are written by `launch`, the others by `new_state`; all threads read them.
FUNCTION, JOB, WORKERS, SYSTEM, SPINS = range(5)
# Set by `runtime.capture`, moved on by `capture`: where the next row and the next frame go, where
# their room ends, and how many launches found none.
NEXT_ROW, ROWS_END, NEXT_FRAME, FRAMES_END, MISSED = range(5, 10)
ROW = 3  # words: function, job, workers
PENDING, CALLER_ASLEEP = SLOT_WORDS, SLOT_WORDS + 1
JOBS, ASLEEP, CLAIMED = 0, 1, 2  # in the slot of a worker, or of any counter that threads wait for
FIRST_SLOT = 2  # that of worker 0, which has none: the others follow

LAUNCH_ARGUMENTS = ("state", "function", "job", "workers", "frame_bytes")
SPIN = 100e-6  # seconds that a thread looks before it sleeps; layers begin 5 to 50 us apart
NAP = 200  # microseconds, where threads cannot wait for memory
SYS_FUTEX = {"x86_64": 202, "amd64": 202, "aarch64": 98, "arm64": 98, "riscv64": 98}
FUTEX_WAIT, FUTEX_WAKE, PRIVATE = 0, 1, 128


@lru_cache
def _futex() -> int | None:
    """Return the number of the system call that waits for memory, None where there is none."""
    if sys.platform != "linux":
        return None
    return SYS_FUTEX.get(platform.machine().lower())


@lru_cache
def system_address() -> int:
    """Return the address of the function of the system that waiting threads call."""
    if _futex() is not None:
        function = ctypes.CDLL(None).syscall
    elif sys.platform == "win32":
        function = ctypes.WinDLL("kernel32").Sleep
    else:
        function = ctypes.CDLL(None).usleep
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@lru_cache
def spin_turns(seconds: float) -> int:
    """Return how many turns of waiting take so long: a pause takes 10 to 140 cycles."""
    idle = ctypes.CFUNCTYPE(None, ctypes.c_int64)(address("idle"))
    shortest = min(timeit.repeat(lambda: idle(1000), number=1, repeat=3))
    return max(1, int(seconds / shortest * 1000))


def new_state(slots: int, seconds: float = SPIN) -> np.ndarray:
    """Return the state of a team, or of anything else that waits, with `slots` counters.

    Who waits sleeps after `seconds`.
    """
    # Memory is given where it is written.
    state = np.zeros((FIRST_SLOT + slots) * SLOT_WORDS, np.int64)
    state[SYSTEM] = system_address()
    state[SPINS] = spin_turns(seconds)
    return state


class _Writer(Builder):
    """Writes a function whose first argument is the state: its words, and waiting for them."""

    def __init__(self, name: str, *arguments: str) -> None:
        super().__init__(new_function(name, arguments))

    def place(self, word: int | ir.Value, kind: ir.Type = I64) -> ir.Value:
        """Return a pointer to a word of the state."""
        if isinstance(word, int):
            word = self.constant(word)
        address = self.builder.add(self.arguments[0], self.builder.mul(word, self.constant(8)))
        return self.pointer(address, kind)

    def count_of(self, worker: ir.Value, field: int) -> ir.Value:
        """Return a pointer to a field of a worker's slot."""
        slot = self.builder.mul(worker, self.constant(SLOT_WORDS))
        first = self.constant(FIRST_SLOT * SLOT_WORDS + field)
        return self.place(self.builder.add(slot, first), I32)

    def word(self, word: int) -> ir.Value:
        return self.builder.load(self.place(word))

    def flag(self, value: int, pointer: ir.Value) -> None:
        """Write a number for other threads."""
        self.write(self.constant(value, I32), pointer)

    def count(self, pointer: ir.Value) -> None:
        """Count one more, where nobody else writes."""
        self.write(self.builder.add(self.builder.load(pointer), self.constant(1, I32)), pointer)

    def claim(self, worker: ir.Value, number: ir.Value) -> ir.Value:
        """Claim a job of a worker by its number; return whether nobody else had it."""
        before = self.builder.sub(number, self.constant(1, I32))
        pointer = self.count_of(worker, CLAIMED)
        pair = self.builder.cmpxchg(pointer, before, number, "acq_rel", "acquire")
        return self.builder.extract_value(pair, 1)

    def pause(self) -> None:
        """Tell the core that this thread waits: its sibling may have what it does not use."""
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            self.call_named("llvm.x86.sse2.pause", [])
        elif machine in ("aarch64", "arm64"):
            self.call_named("llvm.aarch64.hint", [self.constant(1, I32)])

    def sleep(self, pointer: ir.Value, seen: ir.Value) -> None:
        """Sleep until somebody wakes who waits at `pointer`; not if it has changed already."""
        if _futex() is None:
            nap = NAP if sys.platform != "win32" else 1  # milliseconds there
            self.call(self.word(SYSTEM), [self.constant(nap, I32)], I64)
        else:
            self._call_futex(pointer, FUTEX_WAIT, self.builder.zext(seen, I64), self.constant(0))

    def wake(self, pointer: ir.Value) -> None:
        """Wake who waits at `pointer`."""
        if _futex() is not None:
            self._call_futex(pointer, FUTEX_WAKE, self.constant(1))

    def _call_futex(self, pointer: ir.Value, what: int, *values: ir.Value) -> None:
        number = self.constant(_futex() or 0)
        words = [number, pointer, self.constant(what | PRIVATE), *values]
        self.call(self.word(SYSTEM), words, I64, fixed=1)

    def wake_if(self, asleep: ir.Value, pointer: ir.Value) -> None:
        """Wake who waits at `pointer`, if `asleep` says that somebody does."""
        sleeps = self.builder.icmp_unsigned("!=", self.read(asleep), self.constant(0, I32))
        with self.builder.if_then(sleeps):
            self.wake(pointer)

    def wake_children(self, first: ir.Value, second: ir.Value, workers: ir.Value) -> None:
        """Wake two workers, those of them that take part and sleep."""
        builder = self.builder
        builder.fence("seq_cst")  # what was written for them comes before the look at who sleeps
        for child in (first, second):
            with builder.if_then(builder.icmp_unsigned("<", child, workers)):
                self.wake_if(self.count_of(child, ASLEEP), self.count_of(child, JOBS))

    def wait(
        self, pointer: ir.Value, asleep: ir.Value, done: Callable[[ir.Value], ir.Value]
    ) -> None:
        """Wait until ``done(what is at pointer)``: look a number of times, then sleep; again."""
        builder = self.builder
        wait, look, again, vain, got = map(self.block, ("wait", "look", "again", "vain", "got"))
        builder.branch(wait)
        builder.position_at_end(wait)
        limit = self.word(SPINS)
        builder.branch(look)
        builder.position_at_end(look)
        turn = builder.phi(I64)
        turn.add_incoming(self.constant(0), wait)
        builder.cbranch(done(self.read(pointer)), got, again)
        builder.position_at_end(again)
        self.pause()
        following = builder.add(turn, self.constant(1))
        turn.add_incoming(following, again)
        builder.cbranch(builder.icmp_unsigned("<", following, limit), look, vain)
        builder.position_at_end(vain)
        self.flag(1, asleep)
        builder.fence("seq_cst")
        seen = self.read(pointer)
        with builder.if_then(builder.not_(done(seen))):
            self.sleep(pointer, seen)
        self.flag(0, asleep)
        builder.branch(wait)
        builder.position_at_end(got)


def _serve() -> ir.Module:
    """Write ``serve(state, worker)``: do one job after the other, until one has no function."""
    w = _Writer("serve", "state", "worker")
    builder, worker = w.builder, w.arguments[1]
    entry = builder.block
    following, own, work, end = map(w.block, ("next", "own", "work", "end"))
    jobs, asleep = w.count_of(worker, JOBS), w.count_of(worker, ASLEEP)
    builder.branch(following)

    builder.position_at_end(following)
    seen = builder.phi(I32)
    seen.add_incoming(w.constant(0, I32), entry)
    w.wait(jobs, asleep, lambda count: builder.icmp_unsigned("!=", count, seen))
    # Before children are woken: a job handed over meanwhile has another number, and wakes them too.
    number = w.read(jobs)
    first = builder.add(builder.add(worker, worker), w.constant(1))
    w.wake_children(first, builder.add(first, w.constant(1)), w.word(WORKERS))
    builder.cbranch(w.claim(worker, number), own, following)
    seen.add_incoming(number, builder.block)

    builder.position_at_end(own)  # the caller waits for it, and words stay as they are
    function, job = w.word(FUNCTION), w.word(JOB)
    builder.cbranch(builder.icmp_unsigned("==", function, w.constant(0)), end, work)

    builder.position_at_end(work)
    w.call(function, [job, worker])
    pending = w.place(PENDING, I32)
    left = builder.atomic_rmw("sub", pending, w.constant(1, I32), "acq_rel")
    with builder.if_then(builder.icmp_unsigned("==", left, w.constant(1, I32))):
        builder.fence("seq_cst")
        w.wake_if(w.place(CALLER_ASLEEP, I32), pending)
    seen.add_incoming(number, builder.block)
    builder.branch(following)

    builder.position_at_end(end)
    return w.finish()


def _launch() -> ir.Module:
    """Write ``launch(state, function, job, workers, frame_bytes)``.

    It hands over, takes part, and waits for all.  Without a function the workers end, and nobody
    waits for them.  `frame_bytes` is for `capture`.
    """
    w = _Writer("launch", *LAUNCH_ARGUMENTS)
    _write_launch(w, *w.arguments[1:4])
    return w.finish()


def _write_launch(w: _Writer, function: ir.Value, job: ir.Value, workers: ir.Value) -> None:
    builder = w.builder
    for word, value in ((FUNCTION, function), (JOB, job), (WORKERS, workers)):
        builder.store(value, w.place(word))
    pending, asleep = w.place(PENDING, I32), w.place(CALLER_ASLEEP, I32)
    others = builder.sub(workers, w.constant(1))
    w.write(builder.trunc(others, I32), pending)
    w.flag(0, asleep)
    # The last one first: who sees its job finds the jobs of those that it has to wake.
    w.loop(others, lambda i, _: w.count(w.count_of(builder.sub(others, i), JOBS)))
    w.wake_children(w.constant(1), w.constant(2), workers)
    with builder.if_then(builder.icmp_unsigned("!=", function, w.constant(0))):
        w.call(function, [job, w.constant(0)])

        def do_for(i: ir.Value, _: object) -> None:  # a thread that has not begun
            worker = builder.add(i, w.constant(1))
            with builder.if_then(w.claim(worker, w.read(w.count_of(worker, JOBS)))):
                w.call(function, [job, worker])
                builder.atomic_rmw("sub", pending, w.constant(1, I32), "acq_rel")

        w.loop(others, do_for)
        w.wait(pending, asleep, lambda left: builder.icmp_unsigned("==", left, w.constant(0, I32)))


def _capture() -> ir.Module:
    """Write ``capture(state, function, job, workers, frame_bytes)``: launch, and note it in a row.

    A job of `frame_bytes` lies in the frame of a function that returns, and is copied.  One of 0
    bytes stays where it is.
    """
    w = _Writer("capture", *LAUNCH_ARGUMENTS)
    builder = w.builder
    _, function, job, workers, size = w.arguments
    row, frame = w.word(NEXT_ROW), w.word(NEXT_FRAME)
    row_end = builder.add(row, w.constant(8 * ROW))
    frame_end = builder.add(frame, size)
    room = builder.and_(
        builder.icmp_unsigned("<=", row_end, w.word(ROWS_END)),
        builder.icmp_unsigned("<=", frame_end, w.word(FRAMES_END)),
    )
    with builder.if_else(room) as (noted, missed):
        with noted:
            words = builder.lshr(size, w.constant(3))

            def copy(i: ir.Value, _: object) -> None:
                at = builder.mul(i, w.constant(8))
                value = builder.load(w.pointer(builder.add(job, at)))
                builder.store(value, w.pointer(builder.add(frame, at)))

            w.loop(words, copy)
            stays = builder.icmp_unsigned("==", size, w.constant(0))
            for i, value in enumerate((function, builder.select(stays, job, frame), workers)):
                builder.store(value, w.pointer(builder.add(row, w.constant(8 * i))))
            builder.store(row_end, w.place(NEXT_ROW))
            builder.store(frame_end, w.place(NEXT_FRAME))
        with missed:
            builder.store(builder.add(w.word(MISSED), w.constant(1)), w.place(MISSED))
    _write_launch(w, function, job, workers)
    return w.finish()


def _replay() -> ir.Module:
    """Write ``replay(state, rows, count)``: launch what rows of `capture` say, one by one."""
    w = _Writer("replay", "state", "rows", "count")
    builder = w.builder

    def launch(i: ir.Value, _: object) -> None:
        row = builder.add(w.arguments[1], builder.mul(i, w.constant(8 * ROW)))
        function, job, workers = (
            builder.load(w.pointer(builder.add(row, w.constant(8 * word)))) for word in range(ROW)
        )
        alone = builder.icmp_unsigned("==", workers, w.constant(1))
        with builder.if_else(alone) as (one, several):
            with one:
                w.call(function, [job, w.constant(0)])
            with several:
                _write_launch(w, function, job, workers)

    w.loop(w.arguments[2], launch)
    return w.finish()


def _idle() -> ir.Module:
    """Write ``idle(turns)``: pause so often, which tells how long a turn of waiting takes."""
    w = _Writer("idle", "turns")
    w.loop(w.arguments[0], lambda i, _: w.pause())
    return w.finish()


def _counter(w: _Writer, field: int) -> ir.Value:
    """Return a pointer to a field of a counter's line."""
    return w.pointer(w.builder.add(w.arguments[1], w.constant(8 * field)), I32)


def _post() -> ir.Module:
    """Write ``post(state, counter)``: count one more, and wake who waits for it."""
    w = _Writer("post", "state", "counter")
    counter, asleep = _counter(w, JOBS), _counter(w, ASLEEP)
    w.count(counter)
    w.builder.fence("seq_cst")
    w.wake_if(asleep, counter)
    return w.finish()


def _await_count() -> ir.Module:
    """Write ``await_count(state, counter, until)``: wait until the counter has come so far."""
    w = _Writer("await_count", "state", "counter", "until")
    counter, asleep = _counter(w, JOBS), _counter(w, ASLEEP)
    until = w.builder.trunc(w.arguments[2], I32)
    w.wait(counter, asleep, lambda count: w.builder.icmp_signed(">=", count, until))
    return w.finish()


def _clock() -> ir.Module:
    """Write ``clock()``: nanoseconds, of the clock that `time.monotonic_ns` reads.

    The system's function has another address in each process: so this one is not kept.
    """
    w = Builder(new_function("clock", (), I64))
    if not hasattr(time, "CLOCK_MONOTONIC"):
        return w.finish(w.constant(0))
    pair = w.builder.alloca(I64, 2)
    system = ctypes.cast(ctypes.CDLL(None).clock_gettime, ctypes.c_void_p).value or 0
    w.call(w.constant(system), [w.constant(time.CLOCK_MONOTONIC, I32), pair], I32)
    seconds = w.builder.load(pair)
    rest = w.builder.load(w.builder.gep(pair, [w.constant(1)]))
    return w.finish(w.builder.add(w.builder.mul(seconds, w.constant(10**9)), rest))


_WRITERS = {
    "serve": _serve,
    "launch": _launch,
    "capture": _capture,
    "replay": _replay,
    "idle": _idle,
    "post": _post,
    "await_count": _await_count,
}


@lru_cache
def address(name: str) -> int:
    """Return the address of one of the functions."""
    if name == "clock":
        return load_once(_clock(), host_isa(), name)
    return load(("fork_join", _futex(), sys.platform), _WRITERS[name], host_isa(), name, __name__)
