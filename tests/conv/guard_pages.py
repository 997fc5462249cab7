"""Runs convolutions on arrays that lie flush against memory nobody may touch.

Started by ``test_guard_pages.py`` as a process of its own, since a kernel that reads or writes one
element too far is killed here. Pickled jobs come in through stdin and pickled results leave through
stdout; the name of each job goes to stderr before it begins, so that the last one named is the
culprit. With an argument, one of the accesses that the kernels must not make is made on purpose.
"""

import ctypes
import mmap
import os
import pickle
import sys
from typing import Any, NamedTuple

import numpy as np

PROT_NONE, PROT_READ = 0, 1
PAGE = mmap.PAGESIZE
PLACES = ("at-start", "at-end", "at-end-columns-apart")

Array = np.ndarray[Any, np.dtype[Any]]


class Job(NamedTuple):
    """One call of one of the library's functions."""

    name: str
    function: str
    operands: list[Array]
    arguments: list[Any]
    algorithm: str
    out: Array  # shape and dtype of the result
    place: str


def protect(address: int, size: int, protection: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def guarded(a: Array, place: str, *, read_only: bool) -> Array:
    """A copy of ``a`` between two forbidden pages, with no byte to spare on one of the sides::

    | forbidden | a a a a a a . . . | forbidden |      at-start
    | forbidden | . . . a a a a a a | forbidden |      at-end
    | forbidden | . a . a . a . a a | forbidden |      at-end-columns-apart, to the last element
    """
    step = 2 if place == "at-end-columns-apart" else 1
    count = (a.size - 1) * step + 1
    size = -(-count * a.itemsize // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    offset = PAGE if place == "at-start" else PAGE + size - count * a.itemsize
    flat = np.frombuffer(memory, a.dtype, count, offset)
    flat[...] = np.nan
    copy = flat[::step].reshape(a.shape)
    assert np.shares_memory(copy, flat)
    copy[...] = a
    protect(address, PAGE, PROT_NONE)
    protect(address + PAGE + size, PAGE, PROT_NONE)
    if read_only:
        protect(address + PAGE, size, PROT_READ)
    return copy


def run(job: Job) -> Array:
    import lowerconv

    print(job.name, file=sys.stderr, flush=True)
    operands = [guarded(a, job.place, read_only=True) for a in job.operands]
    out = guarded(job.out, job.place, read_only=False)
    function = getattr(lowerconv, job.function)
    function(*operands, *job.arguments, algorithm=job.algorithm, out=out)
    return out.copy()


def trespass(how: str) -> None:
    """Do what the guard must stop."""
    place = "at-start" if how == "read-before-start" else "at-end"
    a = guarded(np.ones(5, np.float32), place, read_only=True)
    if how == "write-to-input":
        a[0] = 2
    else:
        beside = a.ctypes.data + (-1 if how == "read-before-start" else a.nbytes)
        ctypes.string_at(beside, 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trespass(sys.argv[1])
    else:
        jobs = pickle.load(sys.stdin.buffer)
        sys.stdout.buffer.write(pickle.dumps([run(Job(*fields)) for fields in jobs]))
