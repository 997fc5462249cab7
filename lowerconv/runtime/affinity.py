"""Which CPU each thread runs on.

Left alone, the kernel may wake a thread on the core of the one that waits for it, and keep both
there for as long as other processes come and go: measured on two cores, convolutions of a
millisecond took twice as long for seconds.  So the threads of the team are bound, each to a core of
its own.  The thread that calls is the program's: its mask stays what it is, because everything that
the program starts inherits it, and it is put on its core whenever it comes from another one.
"""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any

from lowerconv.checks import integer
from lowerconv.machine.placement import POLICIES, nodes_of, placement, without_spare
from lowerconv.machine.topology import (
    Topology,
    format_cpu_list,
    parse_cpu_list,
    read_topology,
    usable_cpus,
)
from lowerconv.runtime.team import Team

ENVIRONMENT = "LOWERCONV_AFFINITY"
AUTO, NONE = "auto", "none"
NAMES = (AUTO, *POLICIES, NONE)

Policy = str | tuple[int, ...]

_policy: Policy | None = None  # until it is asked for
_share: tuple[int, ...] | None = None  # CPUs of this process, None for all that it may use
_spare: int | None = None
_refused: str | None = None  # what the kernel said
_generation = 0
_choosing = threading.RLock()  # held while these change


def _renew() -> None:
    """Give a forked child a new lock: a thread that the child lacks may hold that of its parent."""
    global _choosing
    _choosing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def set_affinity(policy: str | Sequence[int]) -> None:
    """Choose the CPUs that threads are bound to.

    Parameters
    ----------
    policy : {"auto", "compact", "spread", "none"} or sequence of int
        ``"compact"`` fills one NUMA node after the other, ``"spread"`` all of them evenly; both
        give every thread a core of its own while there are enough.  A list names the CPU of each
        thread, the calling one first.  ``"none"`` leaves it to the kernel, and frees threads that
        are bound.  ``"auto"``, with which programs start, is ``"compact"`` where there are as many
        threads as cores, else ``"none"``: several programs with few threads each would all take
        the first cores.

    Raises
    ------
    TypeError, ValueError
        `policy` is nothing of this, or names CPUs that this process may not use.

    Warns
    -----
    RuntimeWarning
        Once, where the kernel refuses to bind a thread: nothing is bound then.

    Notes
    -----
    The environment variable ``LOWERCONV_AFFINITY`` has the same values, a list as ``0-3,8``.
    """
    global _policy, _refused, _generation
    checked = _checked(policy, "policy")
    with _choosing:
        # At once, as everywhere here: an interrupt comes before all of them or after.
        _policy, _refused, _generation = checked, None, _generation + 1


def parse_affinity(text: str) -> Policy:
    """Return a policy as the command line and the environment have it: a name, or ``0-3,8``.

    Raises
    ------
    ValueError
        `text` is neither.
    """
    text = text.strip().lower()
    if text in NAMES:
        return text
    try:
        return parse_cpu_list(text)
    except ValueError:
        names = ", ".join(map(repr, NAMES))
        raise ValueError(f"got {text!r}, expected {names} or a list of CPUs") from None


def get_affinity() -> str | tuple[int, ...]:
    """Return the policy of :func:`set_affinity`, of ``LOWERCONV_AFFINITY``, or ``"auto"``.

    Returns
    -------
    str or tuple of int
        As :func:`set_affinity` takes it.

    Raises
    ------
    ValueError
        ``LOWERCONV_AFFINITY`` is no policy.
    """
    global _policy
    policy = _policy
    if policy is not None:
        return policy
    with _choosing:  # who asks first must not undo what another thread sets meanwhile
        if _policy is None:
            try:
                policy = parse_affinity(os.environ.get(ENVIRONMENT) or AUTO)
            except ValueError as error:
                raise ValueError(f"{ENVIRONMENT}: {error}") from None
            _policy = _checked(policy, ENVIRONMENT)
        return _policy


def _checked(policy: Any, argument: str) -> Policy:
    names = ", ".join(map(repr, NAMES))
    if isinstance(policy, str):
        if policy not in NAMES:
            raise ValueError(f"{argument}: got {policy!r}, expected {names} or a list of CPUs")
        return policy
    if not isinstance(policy, Sequence):
        raise TypeError(f"{argument}: got {policy!r}, expected {names} or a list of CPUs")
    cpus = tuple(integer(cpu, argument, 0) for cpu in policy)
    unknown = set(cpus).difference(topology().cpus)
    if unknown or not cpus:
        raise ValueError(
            f"{argument}: got {list(policy)!r}, expected some of the CPUs of this process: "
            f"{format_cpu_list(topology().cpus)}"
        )
    return cpus


def set_share(cpus: Collection[int] | None, spare: bool = False) -> int | None:
    """Limit this process to a share of its CPUs, as a rank that has others beside it.

    The calling thread is bound to them, and whatever it starts from now on.

    Parameters
    ----------
    cpus : collection of int or None
        None for all that it may use.
    spare : bool
        Whether to keep one core free of kernels, for a thread that communicates.

    Returns
    -------
    int or None
        A CPU of the spare core; None where none is wanted, or there is only one core.
    """
    share = None if cpus is None else tuple(sorted(cpus))
    _take(share, None)
    if spare:
        left, core = without_spare(topology(), topology().cpus)
        if core is not None:
            _take(left, core)
    _bind_process(share)
    return _spare


def _take(share: tuple[int, ...] | None, spare: int | None) -> None:
    global _share, _spare, _refused, _generation
    with _choosing:
        _share, _spare, _refused, _generation = share, spare, None, _generation + 1


def _bind_process(cpus: Collection[int] | None) -> None:
    if cpus is not None and get_affinity() != NONE and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            _report(error)


# What depends on the policy is remembered by its generation: a thread that has begun to find it
# out before the policy changed may be done after that.


def topology() -> Topology:
    """Return the topology of the CPUs of this process that kernels may use."""
    return _topology(_generation)


@lru_cache
def _topology(generation: int) -> Topology:
    return read_topology(usable=_share or usable_cpus())


def places(threads: int, pairs: bool = False) -> tuple[int, ...] | None:
    """Return the CPU of each thread, the calling one first; None where they are not bound.

    Parameters
    ----------
    threads : int
    pairs : bool
        Whether threads 2i and 2i + 1 work together: SMT siblings, where there are any.
    """
    return _places(_generation, threads, pairs)


@lru_cache
def _places(generation: int, threads: int, pairs: bool) -> tuple[int, ...] | None:
    policy = get_affinity()
    if policy == NONE or _refused or not hasattr(os, "sched_setaffinity"):
        return None
    machine = topology()
    if isinstance(policy, str):
        if threads > len(machine.cpus):  # they would have to wait for each other
            return None
        full = threads >= len(machine.cores)
        if policy == AUTO:
            # A single core that is all there is needs no binding.
            if not full or threads == 1:
                return None
            policy = "compact"
    else:
        policy = tuple(cpu for cpu in policy if cpu in machine.cpus)  # of this process's share
        if threads > len(policy):
            return None
    return placement(machine, policy, threads, pairs)


def nodes(threads: int) -> tuple[int, ...]:
    """Return for each thread the number of its NUMA node, from 0: all 0 where none is bound."""
    return _nodes(_generation, threads)


@lru_cache
def _nodes(generation: int, threads: int) -> tuple[int, ...]:
    bound = places(threads)
    if bound is None:
        return (0,) * threads
    found = nodes_of(topology(), bound)
    return tuple(sorted(set(found)).index(node) for node in found)


def cores() -> int:
    """Return how many cores this process has."""
    return len(topology().cores)


def siblings() -> bool:
    """Return whether every core has two hardware threads that this process may use."""
    return all(len(core) > 1 for core in topology().cores)


def _forget(refused: str | None = None) -> None:
    """Forget everything that was derived from the policy."""
    global _refused, _generation
    with _choosing:
        _refused, _generation = refused, _generation + 1  # last: who sees it sees all else


def generation() -> int:
    """Return a number that changes with the policy: plans are made for one."""
    return _generation


def bind(team: Team, threads: int, pairs: bool = False) -> None:
    """Bind the threads of a team, and put the calling one on its core."""
    bound = _places(_generation, threads, pairs)
    if bound is None:
        if team.places is not None:
            _free(team)
        return
    try:
        if team.places is not bound:
            team.places = ()  # unknown, where it is interrupted
            for thread, cpu in zip(team.started, bound[1:], strict=False):
                os.sched_setaffinity(thread.native_id or 0, (cpu,))
            team.places = bound
        if _current_cpu() != bound[0]:
            _move_here(bound[0])
    except OSError as error:
        try:
            _free(team)
        finally:
            _report(error)


def _move_here(cpu: int) -> None:
    """Put the calling thread on a CPU, and let it go again: it stays while nothing disturbs it."""
    mask = os.sched_getaffinity(0)
    if cpu in mask and len(mask) > 1:
        try:
            os.sched_setaffinity(0, (cpu,))
        finally:  # also where the user interrupts in between
            os.sched_setaffinity(0, mask)


def _free(team: Team) -> None:
    """Let the threads of a team run where the calling one may."""
    mask, refused = os.sched_getaffinity(0), None
    for thread in team.started:
        try:
            os.sched_setaffinity(thread.native_id or 0, mask)
        except OSError as error:
            refused = error
    team.places = None
    if refused:  # told when all is done: users may turn warnings into errors
        _report(refused)


def _report(error: OSError) -> None:
    if _refused is None:
        _forget(str(error))
        warnings.warn(
            f"lowerconv: the kernel refuses to bind threads to CPUs ({error}); they run unbound",
            RuntimeWarning,
            stacklevel=2,
        )


def refusal() -> str | None:
    """Return why threads are not bound although they should be, None if they are."""
    return _refused


@lru_cache
def _getcpu():
    try:
        return ctypes.CDLL(None).sched_getcpu
    except (AttributeError, OSError):
        return lambda: -1  # unknown: then the thread is moved at every call


def _current_cpu() -> int:
    return _getcpu()()
