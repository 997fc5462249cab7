r"""How a job reaches the threads of a team and comes back: generated code, without locks.

Each thread has a count of its own jobs, in a cache line that nobody but the caller writes::

    launch:   job -> shared line      jobs[w] += 1      work as thread 0    wait for pending == 0
                                         |                                        ^
    serve(w):                  spin on jobs[w], or sleep -> wake 2w+1, 2w+2 -> work -> pending -= 1

A thread that waits spins for a while, because the next job of a network is microseconds away, and
then sleeps in the kernel until its counter changes (futex(2), Linux; elsewhere it naps and looks
again).  Who is woken wakes two others before it works, so that many are awake in few steps.

Waiting for memory to change and the orders of loads and stores follow "Futexes are tricky"
(Drepper, 2011): whoever sleeps says so first and looks once more; whoever hands over writes first
and then looks who sleeps.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from llvmlite import ir

from lowerconv.codegen.emit import I32, I64
from lowerconv.codegen.isa import host_isa
from lowerconv.codegen.jit import load

# The state of a team in 64-bit words.  Lines are two cache lines apart, which CPUs fetch in pairs.
LINE = 16
FUNCTION, JOB, WORKERS, SYSTEM, SPINS = range(5)  # written by `launch`, read by all
PENDING, CALLER_ASLEEP = LINE, LINE + 1
JOBS, ASLEEP = 0, 1  # in the line of a worker, or of any counter that threads wait for
FIRST_LINE = 2  # that of worker 0, which has none: the others follow

SPIN = 100e-6  # seconds that a thread looks before it sleeps; calls of a network are 5 to 50 apart
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
    shortest = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        idle(1000)
        shortest = min(shortest, time.perf_counter() - begin)
    return max(1, int(seconds / shortest * 1000))


def new_state(lines: int, seconds: float = SPIN) -> np.ndarray:
    """Return the state of a team, or of anything else that waits, with so many counters.

    Who waits sleeps after `seconds`.
    """
    state = np.zeros((FIRST_LINE + lines) * LINE, np.int64)  # memory is given where it is written
    state[SYSTEM] = system_address()
    state[SPINS] = spin_turns(seconds)
    return state


class _Writer:
    """Writes the two functions: words of the state, atomics, calls of the system."""

    def __init__(self, module: ir.Module, name: str, arguments: int) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * arguments)
        self.function = ir.Function(module, kind, name)
        self.module = module
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.state = self.function.args[0]

    def block(self, name: str) -> ir.Block:
        return self.function.append_basic_block(name)

    def place(self, word: int | ir.Value, kind: ir.Type = I64) -> ir.Value:
        """Return a pointer to a word of the state."""
        if isinstance(word, int):
            word = ir.Constant(I64, word)
        address = self.builder.add(self.state, self.builder.mul(word, ir.Constant(I64, 8)))
        return self.builder.inttoptr(address, kind.as_pointer())

    def count_of(self, worker: int | ir.Value, field: int) -> ir.Value:
        """Return a pointer to a field of a worker's line."""
        if isinstance(worker, int):
            worker = ir.Constant(I64, worker)
        line = self.builder.mul(worker, ir.Constant(I64, LINE))
        return self.place(self.builder.add(line, ir.Constant(I64, FIRST_LINE * LINE + field)), I32)

    def word(self, word: int) -> ir.Value:
        return self.builder.load(self.place(word))

    def read(self, pointer: ir.Value, order: str = "acquire") -> ir.Value:
        return self.builder.load_atomic(pointer, order, 4)

    def write(self, value: ir.Value, pointer: ir.Value, order: str = "release") -> None:
        self.builder.store_atomic(value, pointer, order, 4)

    def pause(self) -> None:
        """Tell the core that this thread waits: its sibling may have what it does not use."""
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            name, arguments = "llvm.x86.sse2.pause", []
        elif machine in ("aarch64", "arm64"):
            name, arguments = "llvm.aarch64.hint", [ir.Constant(I32, 1)]
        else:
            return
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in arguments])
        function = self.module.globals.get(name) or ir.Function(self.module, kind, name)
        self.builder.call(function, arguments)

    def _system(self, arguments: list[ir.Value], variable: bool = False) -> None:
        fixed = arguments[:1] if variable else arguments
        kind = ir.FunctionType(I64, [value.type for value in fixed], var_arg=variable)
        self.builder.call(self.builder.inttoptr(self.word(SYSTEM), kind.as_pointer()), arguments)

    def sleep(self, pointer: ir.Value, seen: ir.Value) -> None:
        """Sleep until somebody wakes who waits at `pointer`; not if it has changed already."""
        number, zero = _futex(), ir.Constant(I64, 0)
        if number is None:
            nap = NAP if sys.platform != "win32" else 1  # milliseconds there
            self._system([ir.Constant(I32, nap)])
            return
        words = [number, pointer, FUTEX_WAIT | PRIVATE, self.builder.zext(seen, I64), zero]
        self._call_futex(words)

    def wake(self, pointer: ir.Value) -> None:
        """Wake who waits at `pointer`."""
        if _futex() is not None:
            self._call_futex([_futex(), pointer, FUTEX_WAKE | PRIVATE, ir.Constant(I64, 1)])

    def _call_futex(self, words: list) -> None:
        values = [ir.Constant(I64, word) if isinstance(word, int) else word for word in words]
        self._system(values, variable=True)

    def spin(self, done: Callable[[], ir.Value], found: ir.Block) -> None:
        """Look until ``done()``, a bounded number of times; go on behind it when that was vain."""
        builder, before = self.builder, self.builder.block
        look, again, vain = self.block("look"), self.block("again"), self.block("vain")
        limit = self.word(SPINS)
        builder.branch(look)
        builder.position_at_end(look)
        turn = builder.phi(I64)
        turn.add_incoming(ir.Constant(I64, 0), before)
        builder.cbranch(done(), found, again)
        builder.position_at_end(again)
        self.pause()
        following = builder.add(turn, ir.Constant(I64, 1))
        turn.add_incoming(following, again)
        builder.cbranch(builder.icmp_unsigned("<", following, limit), look, vain)
        builder.position_at_end(vain)

    def wake_children(self, first: ir.Value, second: ir.Value, workers: ir.Value) -> None:
        """Wake two workers, those of them that take part and sleep."""
        builder = self.builder
        builder.fence("seq_cst")  # what was written for them comes before the look at who sleeps
        for child in (first, second):
            with builder.if_then(builder.icmp_unsigned("<", child, workers)):
                asleep = self.read(self.count_of(child, ASLEEP))
                with builder.if_then(builder.icmp_unsigned("!=", asleep, ir.Constant(I32, 0))):
                    self.wake(self.count_of(child, JOBS))

    def work(self, function: ir.Value, job: ir.Value, worker: ir.Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64, I64])
        self.builder.call(self.builder.inttoptr(function, kind.as_pointer()), [job, worker])


def _serve(module: ir.Module) -> None:
    """Write ``serve(state, worker)``: do one job after the other, until one has no function."""
    w = _Writer(module, "serve", 2)
    builder, worker = w.builder, w.function.args[1]
    entry = builder.block
    wait, got, work, end = (w.block(name) for name in ("wait", "got", "work", "end"))
    zero, one = ir.Constant(I32, 0), ir.Constant(I32, 1)
    jobs, asleep = w.count_of(worker, JOBS), w.count_of(worker, ASLEEP)
    builder.branch(wait)

    builder.position_at_end(wait)
    seen = builder.phi(I32)
    seen.add_incoming(zero, entry)
    w.spin(lambda: builder.icmp_unsigned("!=", w.read(jobs), seen), got)
    w.write(one, asleep)
    builder.fence("seq_cst")
    with builder.if_then(builder.icmp_unsigned("==", w.read(jobs), seen)):
        w.sleep(jobs, seen)
    w.write(zero, asleep)
    seen.add_incoming(seen, builder.block)
    builder.branch(wait)

    builder.position_at_end(got)
    function, job, workers = w.word(FUNCTION), w.word(JOB), w.word(WORKERS)
    twice = builder.add(worker, worker)
    one_of, other_of = (builder.add(twice, ir.Constant(I64, number)) for number in (1, 2))
    w.wake_children(one_of, other_of, workers)
    builder.cbranch(builder.icmp_unsigned("==", function, ir.Constant(I64, 0)), end, work)

    builder.position_at_end(work)
    w.work(function, job, worker)
    pending = w.place(PENDING, I32)
    left = builder.atomic_rmw("sub", pending, one, "acq_rel")
    with builder.if_then(builder.icmp_unsigned("==", left, one)):
        builder.fence("seq_cst")
        caller = w.read(w.place(CALLER_ASLEEP, I32))
        with builder.if_then(builder.icmp_unsigned("!=", caller, zero)):
            w.wake(pending)
    # The next job cannot have come before this one was reported.
    seen.add_incoming(builder.add(seen, one), builder.block)
    builder.branch(wait)

    builder.position_at_end(end)
    builder.ret_void()


def _launch(module: ir.Module) -> None:
    """Write ``launch(state, function, job, workers)``: hand over, take part, wait for all.

    Without a function the workers end, and nobody waits for them.
    """
    w = _Writer(module, "launch", 4)
    builder = w.builder
    _, function, job, workers = w.function.args
    zero, one = ir.Constant(I32, 0), ir.Constant(I32, 1)
    for word, value in ((FUNCTION, function), (JOB, job), (WORKERS, workers)):
        builder.store(value, w.place(word))
    pending, asleep = w.place(PENDING, I32), w.place(CALLER_ASLEEP, I32)
    others = builder.sub(workers, ir.Constant(I64, 1))
    w.write(builder.trunc(others, I32), pending)
    w.write(zero, asleep)
    entry = builder.block
    names = ("post", "one", "posted", "work", "wait", "end")
    post, mail_one, posted, work, wait, end = (w.block(name) for name in names)
    builder.branch(post)

    # The last one first: who sees its job finds the jobs of those that it has to wake.
    builder.position_at_end(post)
    left = builder.phi(I64)
    left.add_incoming(others, entry)
    builder.cbranch(builder.icmp_unsigned("==", left, ir.Constant(I64, 0)), posted, mail_one)
    builder.position_at_end(mail_one)
    jobs = w.count_of(left, JOBS)
    w.write(builder.add(builder.load(jobs), one), jobs)
    left.add_incoming(builder.sub(left, ir.Constant(I64, 1)), mail_one)
    builder.branch(post)

    builder.position_at_end(posted)
    w.wake_children(ir.Constant(I64, 1), ir.Constant(I64, 2), workers)
    builder.cbranch(builder.icmp_unsigned("==", function, ir.Constant(I64, 0)), end, work)
    builder.position_at_end(work)
    w.work(function, job, ir.Constant(I64, 0))
    builder.branch(wait)

    builder.position_at_end(wait)
    w.spin(lambda: builder.icmp_unsigned("==", w.read(pending), zero), end)
    w.write(one, asleep)
    builder.fence("seq_cst")
    still = w.read(pending)
    with builder.if_then(builder.icmp_unsigned("!=", still, zero)):
        w.sleep(pending, still)
    w.write(zero, asleep)
    builder.branch(wait)

    builder.position_at_end(end)
    builder.ret_void()


def _idle(module: ir.Module) -> None:
    """Write ``idle(turns)``: pause so often, which tells how long a turn of waiting takes."""
    w = _Writer(module, "idle", 1)
    builder, entry = w.builder, w.builder.block
    loop, end = w.block("loop"), w.block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    turn = builder.phi(I64)
    turn.add_incoming(ir.Constant(I64, 0), entry)
    w.pause()
    following = builder.add(turn, ir.Constant(I64, 1))
    turn.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, w.state), loop, end)
    builder.position_at_end(end)
    builder.ret_void()


def _counter(w: _Writer, field: int) -> ir.Value:
    """Return a pointer to a counter, or to the word that says whether somebody sleeps for it."""
    place = w.builder.add(w.function.args[1], ir.Constant(I64, 8 * field))
    return w.builder.inttoptr(place, I32.as_pointer())


def _post(module: ir.Module) -> None:
    """Write ``post(state, counter)``: count one more, and wake who waits for it."""
    w = _Writer(module, "post", 2)
    builder, one = w.builder, ir.Constant(I32, 1)
    counter, asleep = _counter(w, JOBS), _counter(w, ASLEEP)
    w.write(builder.add(builder.load(counter), one), counter)
    builder.fence("seq_cst")
    with builder.if_then(builder.icmp_unsigned("!=", w.read(asleep), ir.Constant(I32, 0))):
        w.wake(counter)
    builder.ret_void()


def _meet(module: ir.Module) -> None:
    """Write ``meet(state, counter, count)``: wait until the counter has come so far."""
    w = _Writer(module, "meet", 3)
    builder = w.builder
    zero, one = ir.Constant(I32, 0), ir.Constant(I32, 1)
    counter, asleep = _counter(w, JOBS), _counter(w, ASLEEP)
    count = builder.trunc(w.function.args[2], I32)
    wait, end = w.block("wait"), w.block("end")
    builder.branch(wait)
    builder.position_at_end(wait)
    w.spin(lambda: builder.icmp_signed(">=", w.read(counter), count), end)
    w.write(one, asleep)
    builder.fence("seq_cst")
    seen = w.read(counter)
    with builder.if_then(builder.icmp_signed("<", seen, count)):
        w.sleep(counter, seen)
    w.write(zero, asleep)
    builder.branch(wait)
    builder.position_at_end(end)
    builder.ret_void()


def _clock(module: ir.Module) -> None:
    """Write ``clock()``: nanoseconds, of the clock that `time.monotonic_ns` reads."""
    function = ir.Function(module, ir.FunctionType(I64, []), "clock")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    if not hasattr(time, "CLOCK_MONOTONIC"):
        builder.ret(ir.Constant(I64, 0))
        return
    read = ir.Function(module, ir.FunctionType(I32, [I32, I64.as_pointer()]), "clock_gettime")
    pair = builder.alloca(I64, 2)
    builder.call(read, [ir.Constant(I32, time.CLOCK_MONOTONIC), pair])
    seconds = builder.load(pair)
    rest = builder.load(builder.gep(pair, [ir.Constant(I64, 1)]))
    builder.ret(builder.add(builder.mul(seconds, ir.Constant(I64, 10**9)), rest))


_WRITERS = {
    "serve": _serve,
    "launch": _launch,
    "idle": _idle,
    "post": _post,
    "meet": _meet,
    "clock": _clock,
}


@lru_cache
def address(name: str) -> int:
    """Return the address of one of the functions."""

    def build() -> ir.Module:
        module = ir.Module(name)
        _WRITERS[name](module)
        return module

    return load(("handoff", _futex(), sys.platform), build, host_isa(), name)
