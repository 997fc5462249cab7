"""`ConvPlan`: every choice about a convolution made once, then cheap to run many times."""

from __future__ import annotations

from math import prod
from typing import Any, cast

import numpy as np

from lowerconv.checks import Pair, plain_array
from lowerconv.conv.algorithms import ALGORITHMS, choose, make_executable
from lowerconv.conv.arrays import are_slices, contiguous, overlap
from lowerconv.conv.executable import Options
from lowerconv.conv.problem import OPS, ConvProblem, Op, conv_problem
from lowerconv.conv.tune import Candidate, measure, recalled
from lowerconv.runtime.threads import Turns, get_num_threads, parallel_region
from lowerconv.runtime.workspace import check_bytes, workspace

_tuning = Turns("tuning")  # two threads at once would measure each other

#        pass:          its operands and its result, as the public functions name them
NAMES = {
    "forward": ("x", "w", "y"),
    "input_grad": ("dy", "w", "dx"),
    "weight_grad": ("dy", "x", "dw"),
}


def algorithms(problem: ConvProblem | None = None) -> tuple[str, ...]:
    """Return the names that ``algorithm=`` takes, beside ``"auto"``.

    Parameters
    ----------
    problem : ConvProblem, optional
        As of ``plan.problem``: only those that take it.  Default: all of them.
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

    Attributes
    ----------
    problem : ConvProblem
    op : str
        "forward", "input_grad" or "weight_grad".
    algorithm : str
        The one that runs, never "auto".
    choice : str
        The algorithm, and its variant where tuning chose one.
    tuning : list of (str, float)
        What was measured for this plan, and the seconds, best first; empty where nothing was.
    threads : int
        Those of :func:`lowerconv.get_num_threads` when the plan was made; fewer where the system
        has refused to start so many.
    result_shape : tuple of int
        Of what a call returns.
    workspace_bytes : int
        Scratch memory for all threads together; all plans share one buffer.
    """

    def __init__(
        self,
        x_shape: Any,
        w_shape: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        *,
        op: str = "forward",
        dtype: Any = "float32",
        algorithm: str = "auto",
        bias: bool = False,
        activation: str | None = None,
        accumulate: bool = False,
        constant_weights: bool = False,
        tune: bool = False,
        variant: str | None = None,
        names: tuple[str, str] = ("x_shape", "w_shape"),
    ) -> None:
        if op not in OPS:
            raise ValueError(f"op: got {op!r}, expected one of {', '.join(map(repr, OPS))}")
        if algorithm not in ("auto", *ALGORITHMS):
            known = ", ".join(map(repr, ("auto", *ALGORITHMS)))
            raise ValueError(f"algorithm: got {algorithm!r}, expected one of {known}")
        if activation not in (None, "relu"):
            raise ValueError(f"activation: got {activation!r}, expected None or 'relu'")
        if op != "forward" and (bias or activation):
            raise ValueError(f"op: got {op!r} with a bias or an activation, expected 'forward'")
        single = isinstance(x_shape, (tuple, list)) and len(x_shape) == 3
        problem = conv_problem(
            (1, *x_shape) if single else x_shape,
            w_shape,
            stride,
            padding,
            dilation,
            groups,
            dtype,
            names=names,
        )
        self.problem = problem
        self.op = cast(Op, op)
        self.bias = bool(bias)
        self.activation = activation
        self.accumulate = bool(accumulate)
        self.threads = get_num_threads()

        shapes = {
            "x": problem.x_shape,
            "w": problem.w_shape,
            "y": problem.y_shape,
        }
        shapes |= {"d" + name: shape for name, shape in shapes.items()}
        self._names = NAMES[op]
        self._full_shapes = tuple(shapes[name] for name in self._names)
        # What the caller passes: images without the batch extent where x_shape had none.
        self._shapes = tuple(
            shape[1:] if single and name[-1] != "w" else shape
            for name, shape in zip(self._names, self._full_shapes, strict=True)
        )
        self.result_shape = self._shapes[2]
        itemsize = problem.dtype.itemsize
        # An empty batch counts as one image: NumPy makes no empty array of such extents either.
        items = prod(max(1, extent) for extent in self._full_shapes[2])
        check_bytes(items * itemsize, f"{self._names[2]} {self.result_shape}")

        self.tuning: list[tuple[str, float]] = []
        candidate = Candidate(algorithm, variant)
        self.reason = "asked for"
        if algorithm == "auto":
            candidate, self.reason = self._choose(tune, constant_weights)
        self.algorithm, self.choice = candidate.algorithm, str(candidate)
        self._constant, self._variant = constant_weights, candidate.variant
        self._make_ready(self.threads)
        self._no_bias = np.empty(0, problem.dtype)
        self._count = 3 if self.bias else 2
        self._images = (0, 1) if op == "weight_grad" else (0, 2)  # where operands, out are images
        self._single = single
        self._operand_names = (*self._names[:2], "bias")[: self._count]
        self._operand_shapes = (*self._shapes[:2], (problem.K,))[: self._count]
        self._held: np.ndarray | None = None

    def hold(self, w: np.ndarray) -> None:
        """Take the filters of all calls to come, which are made without: ``plan(x[, bias])``.

        They are kept packed where the algorithm multiplies packed ones and the plan was made with
        ``constant_weights=True``, else as a copy: `w` may change, and go.

        Raises
        ------
        TypeError, ValueError
            `w` does not fit, or the plan is a weight gradient.
        """
        if self.op == "weight_grad":
            raise ValueError("op: got 'weight_grad', which has no filters to hold")
        self._check("w", w, self.problem.w_shape)
        given = kept = contiguous(w, "w")
        run = self.executable
        with parallel_region(run.threads, run.pairs) as team:
            kept = run.hold(team, given, workspace(run.workspace_items, self.problem.dtype))
        self._held = np.array(w, order="C", subok=False) if kept is given else kept
        self._operand_names = self._operand_names[:1] + self._operand_names[2:]
        self._operand_shapes = self._operand_shapes[:1] + self._operand_shapes[2:]
        self._count = len(self._operand_names)

    def __reduce__(self) -> tuple[Any, ...]:
        p = self.problem
        x_shape = p.x_shape[1:] if self._single else p.x_shape
        options = {
            "op": self.op,
            "dtype": p.dtype,
            "algorithm": self.algorithm,
            "variant": self._variant,
            "bias": self.bias,
            "activation": self.activation,
            "accumulate": self.accumulate,
            "constant_weights": self._constant,
        }
        arguments = (x_shape, p.w_shape, p.stride, p.padding, p.dilation, p.groups)
        return _plan_anew, (arguments, options, self.reason, self.tuning)

    def _make_ready(self, threads: int) -> None:
        """Divide the work among so many threads; no result depends on how many there are."""
        options = Options(
            threads=threads,
            constant=self._constant,
            relu=self.activation == "relu",
            add=self.accumulate,
            variant=self._variant,
        )
        executable = make_executable(self.algorithm, self.problem, self.op, options)
        workspace_bytes = executable.workspace_items * self.problem.dtype.itemsize
        check_bytes(workspace_bytes, f"workspace of algorithm {self.algorithm!r}")
        self.threads, self.workspace_bytes = threads, workspace_bytes
        self.executable = executable

    def _choose(self, tune: bool, constant: bool) -> tuple[Candidate, str]:
        """Return what "auto" stands for, and why: as remembered, as measured now, or as priced."""
        problem = self.problem
        if not problem.N:
            return Candidate("lowering"), "nothing to do"
        candidate = recalled(problem, self.op, constant)
        if candidate:
            return candidate, "the fastest when it was measured"
        if not tune:
            algorithm = choose(problem, self.op, constant)
            return Candidate(algorithm.name), algorithm.reason

        def build(candidate: Candidate) -> ConvPlan:
            return ConvPlan(
                problem.x_shape,
                problem.w_shape,
                problem.stride,
                problem.padding,
                problem.dilation,
                problem.groups,
                op=self.op,
                dtype=problem.dtype,
                algorithm=candidate.algorithm,
                variant=candidate.variant,
                constant_weights=constant,
            )

        with _tuning.take():
            candidate = recalled(problem, self.op, constant)
            if candidate:  # by now
                return candidate, "the fastest when it was measured"
            ranking = measure(problem, self.op, constant, build)
        self.tuning = [(str(candidate), seconds) for candidate, seconds in ranking]
        return ranking[0][0], "the fastest as measured now"

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
        """
        if self.accumulate and out is None:
            raise TypeError("out: got None, expected the array that an accumulating plan adds to")
        if len(operands) == self._count and self._ready(operands, out):
            result = np.empty(self.result_shape, self.problem.dtype) if out is None else out
            self._run(operands, result)
            return result
        return self._careful(operands, out)

    def _ready(self, operands: tuple[np.ndarray, ...], out: np.ndarray | None) -> bool:
        """Return whether kernels can take the arrays as they are: the usual case, told quickly."""
        dtype = self.problem.dtype
        for i, (array, shape) in enumerate(zip(operands, self._operand_shapes, strict=True)):
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return False
            flags = array.flags
            plain = flags.c_contiguous and flags.aligned and flags.writeable
            if not plain and not (i in self._images and self._takes(array)):
                return False
        if out is None:
            return True
        if type(out) is not np.ndarray or out.shape != self.result_shape or out.dtype != dtype:
            return False
        flags = out.flags
        plain = flags.c_contiguous and flags.aligned and flags.writeable
        if not plain and not (2 in self._images and self._takes(out)):
            return False
        return not any(np.may_share_memory(out, operand) for operand in operands)

    def _takes(self, images: np.ndarray) -> bool:
        """Return whether the algorithm can read images that are some channels of larger ones."""
        return self.executable.slices and are_slices(images)

    def _run(self, operands: tuple[np.ndarray, ...], result: np.ndarray) -> None:
        """Run on arrays that are contiguous, or whose images are if the executable `slices`."""
        if self._held is not None:
            operands = (operands[0], self._held, *operands[1:])
        first, second, *bias = operands
        if self._single:  # filters are what they are, and may be packed
            first, second, result = (
                array if name[-1] == "w" else array.reshape(shape)
                for array, name, shape in zip(
                    (first, second, result), self._names, self._full_shapes, strict=True
                )
            )
        with parallel_region(self.executable.threads, self.executable.pairs) as team:
            if team.threads < self.executable.threads:  # the system has no more
                self._make_ready(min(self.threads, team.threads))
            run = self.executable
            scratch = workspace(run.workspace_items, self.problem.dtype)
            run.run(team, first, second, bias[0] if bias else self._no_bias, result, scratch)

    def _careful(self, operands: tuple[Any, ...], out: Any) -> np.ndarray:
        """Check everything, and run on copies of what kernels cannot take as it is."""
        if len(operands) != self._count:
            raise TypeError(
                f"plan: got {len(operands)} arrays, expected {self._count}: "
                + ", ".join(self._operand_names)
            )
        names = self._operand_names
        for name, array, shape in zip(names, operands, self._operand_shapes, strict=True):
            self._check(name, array, shape)
        if out is not None:
            self._check_out(out, operands)
        dtype = self.problem.dtype
        plain = tuple(contiguous(array, name) for array, name in zip(operands, names, strict=True))
        if out is not None and out.flags.c_contiguous and out.flags.aligned:
            self._run(plain, np.asarray(out))
            return out
        result = np.empty(self.result_shape, dtype)
        if self.accumulate:
            result[...] = out
        self._run(plain, result)
        if out is None:
            return result
        out[...] = result
        return out

    def _check(self, name: str, array: Any, shape: tuple[int, ...]) -> None:
        plain_array(array, name)
        if array.dtype != self.problem.dtype:
            raise TypeError(f"{name}: got dtype {array.dtype}, expected {self.problem.dtype}")
        if array.shape != shape:
            raise ValueError(f"{name}: got shape {array.shape}, expected {shape}")

    def _check_out(self, out: Any, operands: tuple[np.ndarray, ...]) -> None:
        self._check("out", out, self.result_shape)
        if not out.flags.writeable:
            raise ValueError("out: got a read-only array, expected a writable one")
        if (
            any(
                step == 0 and extent > 1
                for extent, step in zip(out.shape, out.strides, strict=True)
            )
            and out.size
        ):
            raise ValueError("out: got elements that share memory, expected one cell for each")
        for name, operand in zip(self._operand_names, operands, strict=True):
            # The bounds first: the exact question can be expensive.
            if np.may_share_memory(out, operand) and overlap(out, operand):
                raise ValueError(f"out: got memory of {name}, expected memory of its own")

    def explain(self) -> str:
        """Return what was chosen and why, a line each."""
        p = self.problem
        (top, bottom), (left, right) = p.padding
        m, n, k = p.gemm_shape(self.op)
        lines = {
            "pass": self.op,
            "image": f"N={p.N} C={p.C} H={p.H} W={p.W}, {p.dtype}",
            "filters": f"K={p.K} R={p.R} S={p.S}, stride {p.stride}, dilation {p.dilation}, "
            f"padding {top, bottom}, {left, right}, groups {p.groups}",
            "output": f"P={p.P} Q={p.Q}, {p.flops / 1e6:,.1f} MFLOP",
            "as a GEMM": f"m={m} n={n} k={k}" + (f", {p.groups} times" if p.groups > 1 else ""),
            "algorithm": f"{self.algorithm}: {self.reason}",
            "threads": str(self.threads),
            "workspace": f"{self.workspace_bytes:,} bytes for all threads",
        }
        lines |= self.executable.explain()
        if self.bias or self.activation:
            lines["epilogue"] = ", ".join(
                (["bias"] if self.bias else []) + ([self.activation] if self.activation else [])
            )
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())

    def assembly(self) -> str:
        """Return the assembly of the first of the plan's microkernels.

        Raises
        ------
        ValueError
            The algorithm has none: its inner loops are BLAS's or numba's.
        """
        if not self.executable.kernels:
            raise ValueError(
                f"assembly: got algorithm {self.algorithm!r}, expected 'fused' or 'winograd'"
            )
        return self.executable.kernels[0].assembly()

    def __repr__(self) -> str:
        shapes = " ".join(map(str, self._shapes))
        return f"<ConvPlan {self.op} {shapes} {self.algorithm} on {self.threads} threads>"


def _plan_anew(
    arguments: tuple[Any, ...],
    options: dict[str, Any],
    reason: str,
    tuning: list[tuple[str, float]],
) -> ConvPlan:
    """Return a plan of decisions that another plan has made."""
    plan = ConvPlan(*arguments, **options)
    plan.reason, plan.tuning = reason, list(tuning)
    return plan


def plan_conv2d(
    x_shape: tuple[int, ...],
    w_shape: tuple[int, int, int, int],
    stride: int | Pair = 1,
    padding: Any = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    *,
    op: str = "forward",
    dtype: Any = "float32",
    algorithm: str = "auto",
    bias: bool = False,
    activation: str | None = None,
    accumulate: bool = False,
    constant_weights: bool = False,
    tune: bool = False,
) -> ConvPlan:
    """Decide how to run a convolution pass, to run it many times.

    Parameters
    ----------
    x_shape : tuple of int
        (N, C, H, W) or (C, H, W), in pixels.
    w_shape : tuple of int
        (K, C/groups, R, S).
    stride, padding, dilation, groups
        As for :func:`lowerconv.conv2d`.
    op : {"forward", "input_grad", "weight_grad"}
        The pass: the plan is called as ``plan(x, w[, bias])``, ``plan(dy, w)`` or ``plan(dy, x)``.
    dtype : dtype-like
        float32 or float64.
    algorithm : str
        "auto" or one of :func:`lowerconv.algorithms`.
    bias : bool
        Whether the forward pass adds a bias, the third array of the call.
    activation : {None, "relu"}
        What the forward pass applies last.
    accumulate : bool
        Whether calls add to `out`, which they then must be given: for the gradients of branches,
        and for residuals. An activation comes after the addition.
    constant_weights : bool
        A promise that the filters do not change between calls with the same array: what is made of
        them is then kept, as large as they are, and made again when another array is passed. A call
        looks at some of their numbers, and raises ValueError where these have changed: so it finds
        most broken promises, such as updates of all filters, but not the change of a single number.
    tune : bool
        Whether "auto" measures the candidates where no measurement is remembered for this CPU. It
        takes about half a second, and what wins is remembered for all later plans.

    Returns
    -------
    ConvPlan

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit together; the message names the one.
    MemoryError
        The result or the workspace could not exist on this machine.
    """
    return ConvPlan(
        x_shape,
        w_shape,
        stride,
        padding,
        dilation,
        groups,
        op=op,
        dtype=dtype,
        algorithm=algorithm,
        bias=bias,
        activation=activation,
        accumulate=accumulate,
        constant_weights=constant_weights,
        tune=tune,
    )
