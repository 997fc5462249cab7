"""Threads and locks of the system, whatever else Python's have been replaced by.

gevent and eventlet put functions of their own in the place of those of ``_thread``, ``threading``
and ``time``: a thread is then a greenlet, and runs when another one waits.  Threads that never
return from generated code, answer other ranks or move messages have to be the system's, and so have
the locks that they share.  Python makes a second instance of its built-in modules on request: no
other code has that one, so nothing in it has been replaced.
"""

from __future__ import annotations

import _thread
import contextlib
import importlib.util
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.machinery import BuiltinImporter
from typing import Any

from lowerconv.copying import not_copied

# Bytes that the stack of a thread has at least: Pillow's encoder overflows one of 32 KiB, which
# programs may set for threads of their own (`threading.stack_size`), or the system for all.
STACK = 1 << 20
CURE = (
    "Raise its limit: ulimit -u, the pids limit of the container or batch system; ulimit -v where "
    "it is memory"
)


def _own_instance() -> Any:
    spec = BuiltinImporter.find_spec("_thread")
    if spec is None or spec.loader is None:
        return _thread
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_native = _own_instance()
allocate_lock = _native.allocate_lock
start_new_thread = _native.start_new_thread
RLock = _native.RLock


def replaced() -> bool:
    """Return whether Python's threads have been replaced by others than the system's."""
    return getattr(_thread.start_new_thread, "__module__", None) != "_thread"


@not_copied("make another")
class Thread:
    """A thread that Python does not list, with the interface of `threading.Thread`.

    Attributes
    ----------
    name : str
    native_id : int
        By which the system knows it.
    """

    daemon = True

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self.name = name
        self.native_id: int | None = None
        self._work = work
        self._begun, self._over = allocate_lock(), allocate_lock()

    def start(self) -> None:
        """Begin; return when it has begun."""
        self._begun.acquire()
        start_new_thread(self._run, ())
        with self._begun:
            pass

    def _run(self) -> None:
        with self._over:
            self.native_id = _native.get_native_id()
            self._begun.release()
            self._work()

    def is_alive(self) -> bool:
        """Return whether it works."""
        return self._over.locked()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it ends, for at most `timeout` seconds."""
        if self._over.acquire(timeout=-1 if timeout is None else timeout):
            self._over.release()


def make(work: Callable[[], object], name: str) -> threading.Thread | Thread:
    """Return a thread of the system, to be started; Python does not wait for it at its end.

    Where Python's threads are the system's it is one of them, which debuggers and profilers name.
    """
    if replaced():
        return Thread(work, name)

    def run() -> None:
        work()
        if replaced():  # meanwhile: threads have other numbers now, by which they leave the list
            listed: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]
            listed.pop(thread.ident or 0, None)
            listed[threading.get_ident()] = thread

    thread = threading.Thread(target=run, name=name, daemon=True)
    return thread


def start(thread: threading.Thread | Thread) -> None:
    """Start a thread.

    Raises
    ------
    RuntimeError, MemoryError
        The system has no more threads for this process, or no memory for one.
    """
    with _stack():
        thread.start()


@contextlib.contextmanager
def _stack() -> Iterator[None]:
    """Give threads that are started meanwhile a stack that is large enough."""
    default = _system_stack()
    before = _native.stack_size(STACK)  # there is no other way to ask
    if (before or default) >= STACK:
        _native.stack_size(before)
    try:
        yield
    finally:
        _native.stack_size(before)


def _system_stack() -> int:
    """Return the stack that threads get by default, as far as that can be limited."""
    try:
        import resource
    except ImportError:  # Windows
        return STACK
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return STACK if limit == resource.RLIM_INFINITY else limit


def warn_refused(error: BaseException, instead: str) -> None:
    """Warn that the system refuses a thread, and tell what is done instead."""
    warnings.warn(
        f"lowerconv: this process gets no more threads ({error}): {instead}. {CURE}",
        RuntimeWarning,
        stacklevel=3,
    )


@not_copied("make another")
class Signal:
    """What one thread waits for, until others set it: each time anew."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread that waits, or the next one that will."""
        with contextlib.suppress(RuntimeError):  # it has been set
            self._lock.release()

    def wait(self, seconds: float = -1) -> bool:
        """Wait until it is set, for at most `seconds`; return whether it was."""
        return self._lock.acquire(timeout=seconds)


def sleep(seconds: float) -> None:
    """Have this thread of the system sleep, whatever `time.sleep` does."""
    if replaced():
        Signal().wait(seconds)
    else:
        time.sleep(seconds)
