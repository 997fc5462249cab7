"""`ConvPlan`: every choice about a convolution made once, then cheap to run many times."""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping
from math import prod
from typing import Any

import numpy as np

from lowerconv.codegen.activation import RELU, Activation
from lowerconv.conv.algorithms import ALGORITHMS, choose, make_executable
from lowerconv.conv.arrays import contiguous
from lowerconv.conv.call import make_call
from lowerconv.conv.executable import Executable, Options
from lowerconv.conv.explain import as_text, problem_lines
from lowerconv.conv.problem import FLOAT32, OPS, ConvProblem, Op
from lowerconv.conv.tune import Candidate, measure, recalled
from lowerconv.runtime.team import max_threads
from lowerconv.runtime.threads import FairMutex, get_num_threads, parallel_region
from lowerconv.runtime.workspace import check_bytes, workspace

_tuning = FairMutex("tuning")  # two threads at once would measure each other


def algorithms(problem: ConvProblem | None = None) -> tuple[str, ...]:
    """Return the names that ``algorithm=`` takes, beside ``"auto"``.

    Parameters
    ----------
    problem : ConvProblem, optional
        Such as ``plan.problem``: the algorithms that can compute it.  Default: all of them.

    Returns
    -------
    tuple of str
    """
    return tuple(
        name
        for name, algorithm in ALGORITHMS.items()
        if problem is None or algorithm.takes(problem)
    )


class ConvPlan:
    """One convolution pass, decided: algorithm, blocking, threads and workspace.

    Made by :func:`lowerconv.plan_conv2d`.  Call it with the arrays of its pass, ``plan(x, w[,
    bias])``, ``plan(dy, w)`` or ``plan(dy, x)``, and optionally ``out=``.  A plan may be called
    from several Python threads; the calls follow each other.  A copy, and what is unpickled, is
    planned anew, with the same algorithm, for the threads and the CPU that there are then.

    Parameters
    ----------
    problem : ConvProblem
        Shapes and geometry.
    op : {"forward", "input_grad", "weight_grad"}
        The pass.
    options : Options
        The algorithm, and what the pass does beside the sums.
    tune : bool
        As for :func:`lowerconv.plan_conv2d`.

    Attributes
    ----------
    algorithm : str
        The one that runs, never "auto".
    choice : str
        The algorithm, and its variant where tuning chose one.
    tuning : list of (str, float)
        The choices that were measured for this plan, each with its seconds, the fastest first.
    threads : int
        Those of :func:`lowerconv.get_num_threads` when the plan was made; fewer where the system
        has refused to start so many.
    result_shape : tuple of int
        Of what a call returns.
    workspace_bytes : int
        Scratch memory for all threads together; all plans share one buffer.

    Raises
    ------
    ValueError
        The options do not go together, or the algorithm cannot compute the problem.
    MemoryError
        The result or the workspace could not exist on this machine.
    """

    def __init__(self, problem: ConvProblem, op: Op, options: Options, tune: bool = False) -> None:
        check_options(op, options)
        self.problem, self.op = problem, op
        self.call = self._whole_call = make_call(problem, op, options.bias, options.single)
        result = self.call.result
        self.result_shape = result.shape
        # An empty batch counts as one image: NumPy makes no empty array of such extents either.
        items = prod(max(1, extent) for extent in result.batch_shape)
        check_bytes(items * result.dtype.itemsize, f"{result.name} {result.shape}")
        self.tuning: list[tuple[str, float]] = []
        self.reason = "asked for"
        self.options = options._replace(threads=options.threads or get_num_threads())
        if options.algorithm == "auto":
            algorithm, variant = self._choose(tune)
            self.options = self.options._replace(algorithm=algorithm, variant=variant)
        self.choice = str(Candidate(self.algorithm, self.options.variant))
        self.executable = self._ready()
        self._prepacked: tuple[np.ndarray, ...] = ()  # the filters of all calls
        self._no_bias: tuple[np.ndarray, ...] = ()
        if not options.bias:
            self._no_bias = (np.empty(0, FLOAT32 if problem.has_bits else problem.dtype),)

    @property
    def algorithm(self) -> str:
        """The one that runs, never "auto"."""
        return self.options.algorithm

    @property
    def threads(self) -> int:
        """How many threads the work is divided among."""
        return self.options.threads

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory for all threads together, in bytes."""
        return self.executable.workspace_items * self.problem.dtype.itemsize

    def prepack(
        self,
        w: np.ndarray,
        shared: MutableMapping[Hashable, np.ndarray] | None = None,
        origin: Hashable = None,
    ) -> None:
        """Give the filters once, for all calls to come: those are then ``plan(x[, bias])``.

        The plan has them packed, where the algorithm multiplies packed ones and the plan was made
        with ``constant_weights=True``, else as a copy: later changes of `w` are not seen.

        Parameters
        ----------
        w : ndarray, (K, C/groups, R, S)
            Of the plan's dtype.
        shared : mutable mapping of ndarray, optional
            Filters that plans have prepacked, for others that need the same.
        origin : hashable
            Tells `w` apart from all other filters in `shared`.

        Raises
        ------
        TypeError, ValueError
            `w` does not fit, or the plan is a weight gradient.
        """
        if self.op == "weight_grad":
            raise ValueError("op: got 'weight_grad', which has no filters to prepack")
        self._whole_call.check(self._whole_call.operands[1], w)
        if shared is not None and self.use_shared(shared, origin):
            return
        given = contiguous(w, "w")
        with parallel_region(self.executable.threads, self.executable.pairs) as team:
            executable = self._for_threads(team.threads)
            scratch = workspace(executable.workspace_items, self.problem.dtype)
            kept = executable.prepack(team, given, scratch)
            kept = np.array(w, order="C", subok=False) if kept is given else kept
            if shared is not None:
                shared[origin, executable.packed_key()] = kept
        self._use_prepacked(kept)

    def use_shared(self, shared: MutableMapping[Hashable, np.ndarray], origin: Hashable) -> bool:
        """Multiply with filters that another plan has prepacked, if there are some; return whether.

        Parameters
        ----------
        shared : mutable mapping of ndarray
        origin : hashable
            As for `prepack`, which is called where this returns False.

        Returns
        -------
        bool
        """
        executable = self._for_threads(min(self.executable.threads, max_threads()))
        layout = executable.packed_key()
        kept = shared.get((origin, layout))
        if kept is None:
            return False
        if layout is not None:
            executable.use_packed(kept)
        self._use_prepacked(kept)
        return True

    def _use_prepacked(self, filters: np.ndarray) -> None:
        """Take calls without filters from now on, and multiply with these."""
        self._prepacked = (filters,)
        self.call = self._whole_call.without_filters

    def with_activation(self, activation: Activation | None) -> ConvPlan:
        """Return a plan that differs in the constants of its activation alone.

        Filters are not prepacked.

        Parameters
        ----------
        activation : Activation or None
            Of the kind of this plan's (`Activation.kind`).

        Returns
        -------
        ConvPlan
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.tuning, other._prepacked, other.call = list(self.tuning), (), self._whole_call
        other.options = self.options._replace(activation=activation)
        other.executable = other._ready()
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        options = self.options._replace(threads=0)
        return _plan_anew, (self.problem, self.op, options, self.reason, self.tuning)

    def _ready(self) -> Executable:
        """Return the pass made ready for the threads; no result depends on how many there are."""
        executable = make_executable(self.problem, self.op, self.options)
        needed = executable.workspace_items * self.problem.dtype.itemsize
        check_bytes(needed, f"workspace of algorithm {self.algorithm!r}")
        return executable

    def _for_threads(self, threads: int) -> Executable:
        """Return the executable for what the system has: made anew where that is fewer threads."""
        if threads >= self.executable.threads:
            return self.executable
        if self._prepacked:
            raise RuntimeError(
                f"threads: the system has {threads}, expected {self.executable.threads}, for which "
                "the filters are packed: make the plan, or compile the network, anew"
            )
        self.options = self.options._replace(threads=min(self.threads, threads))
        self.executable = self._ready()
        return self.executable

    def _choose(self, tune: bool) -> Candidate:
        """Return what "auto" runs: the fastest as remembered or measured now, or of least cost."""
        problem, op, constant = self.problem, self.op, self.options.constant

        def build(candidate: Candidate) -> ConvPlan:
            return ConvPlan(problem, op, Options(*candidate, constant=constant))

        if not problem.N:
            self.reason = "nothing to do"
            return Candidate("lowering")
        candidate = recalled(problem, op, constant)
        if candidate is None and not tune:
            algorithm = choose(problem, op, constant)
            self.reason = algorithm.reason
            return Candidate(algorithm.name)
        if candidate is None:
            with _tuning.hold():
                candidate = recalled(problem, op, constant)  # measured meanwhile
                if candidate is None:
                    ranking = measure(problem, op, constant, build)
                    self.tuning = [(str(candidate), seconds) for candidate, seconds in ranking]
                    self.reason = "the fastest as measured now"
                    return ranking[0][0]
        self.reason = "the fastest when it was measured"
        return candidate

    def __call__(self, *operands: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Run the pass.

        Parameters
        ----------
        *operands : ndarray
            ``x, w`` (and ``bias`` if planned), ``dy, w`` or ``dy, x``, of the planned shapes and
            dtype, in any memory layout.  They are not changed.
        out : ndarray, optional
            Where to put the result: its shape and dtype, any layout, no memory in common with an
            operand.

        Returns
        -------
        ndarray
            The result; `out` where it is given.

        Raises
        ------
        TypeError, ValueError
            An operand or `out` that does not fit the plan; nothing has been written.
        RuntimeError
            The system has fewer threads than when filters were packed by `prepack`.
        """
        if self.options.add and out is None:
            raise TypeError("out: got None, expected the array that an accumulating plan adds to")
        if self.call.fits(operands, out, self.executable.takes_slices):
            result = np.empty(self.result_shape, self.call.result.dtype) if out is None else out
        else:
            operands, result = self.call.copied(operands, out, self.options.add)
        target = result
        if self.options.single:
            both = zip(operands, self.call.operands, strict=True)
            operands = tuple(array.reshape(operand.batch_shape) for array, operand in both)
            target = result.reshape(self.call.result.batch_shape)
        # `Executable.run` takes three arrays: the packed filters come second where calls
        # are made without them, and an empty bias third where none is planned.
        a, b, bias = (operands[0], *self._prepacked, *operands[1:], *self._no_bias)
        with parallel_region(self.executable.threads, self.executable.pairs) as team:
            executable = self._for_threads(team.threads)
            scratch = workspace(executable.workspace_items, self.problem.dtype)
            executable.run(team, a, b, bias, target, scratch)
        if out is None:
            return result
        if result is not out and not np.may_share_memory(result, out):
            out[...] = result
        return out

    def is_capturable(self, *operands: np.ndarray, out: np.ndarray) -> bool:
        """Return whether a call on these arrays only launches kernels, as `runtime.capture` needs.

        Parameters
        ----------
        *operands, out : ndarray
            As of a call, with prepacked filters.

        Returns
        -------
        bool
        """
        runs = self.executable
        packed = bool(self._prepacked) and not self.options.single
        return packed and runs.is_capturable and self.call.fits(operands, out, runs.takes_slices)

    def explain(self) -> str:
        """Return what was chosen and why, as lines of text."""
        lines = problem_lines(self.problem, self.op, str(self.problem.dtype)) | {
            "algorithm": f"{self.algorithm}: {self.reason}",
            "threads": str(self.threads),
            "workspace": f"{self.workspace_bytes:,} bytes for all threads",
        }
        lines |= self.executable.explain()
        epilogue = ["bias"] * self.options.bias
        if self.options.activation is not None:
            epilogue.append(self.options.activation.function)
        if epilogue:
            lines["epilogue"] = ", ".join(epilogue)
        return as_text(lines)

    def assembly(self) -> str:
        """Return the assembly of the first of the plan's microkernels.

        Returns
        -------
        str

        Raises
        ------
        ValueError
            The algorithm has none: its inner loops are BLAS's or numba's.
        """
        if not self.executable.kernels:
            emitting = " or ".join(repr(a.name) for a in ALGORITHMS.values() if a.emits)
            raise ValueError(f"assembly: got algorithm {self.algorithm!r}, expected {emitting}")
        return self.executable.kernels[0].assembly()

    def __repr__(self) -> str:
        operands = make_call(self.problem, self.op, False, self.options.single)
        shapes = " ".join(str(o.shape) for o in (*operands.operands, operands.result))
        return f"<ConvPlan {self.op} {shapes} {self.algorithm} on {self.threads} threads>"


def _plan_anew(
    problem: ConvProblem,
    op: Op,
    options: Options,
    reason: str,
    tuning: list[tuple[str, float]],
) -> ConvPlan:
    """Return a plan of decisions that another plan has made."""
    try:
        plan = ConvPlan(problem, op, options)
    except ValueError:  # of another instruction set, which has other variants
        plan = ConvPlan(problem, op, options._replace(variant=None))
    plan.reason, plan.tuning = reason, list(tuning)
    return plan


def check_options(op: str, options: Options) -> None:
    """Raise ValueError for options that do not go together."""
    if op not in OPS:
        raise ValueError(f"op: got {op!r}, expected one of {', '.join(map(repr, OPS))}")
    if options.algorithm not in ("auto", *ALGORITHMS):
        known = ", ".join(map(repr, ("auto", *ALGORITHMS)))
        raise ValueError(f"algorithm: got {options.algorithm!r}, expected one of {known}")
    if op != "forward" and (options.bias or options.activation):
        raise ValueError(f"op: got {op!r} with a bias or an activation, expected 'forward'")


def parse_activation(activation: object) -> Activation | None:
    """Return what "relu" stands for, and None for None; raise ValueError for any other."""
    if activation not in (None, "relu"):
        raise ValueError(f"activation: got {activation!r}, expected None or 'relu'")
    return RELU if activation == "relu" else None
