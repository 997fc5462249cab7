"""A network for one shape of input: nodes in order, every array in planned memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lowerconv.checks import plain_array
from lowerconv.conv.arrays import contiguous
from lowerconv.conv.like_plans import LikePlans
from lowerconv.copying import not_copied
from lowerconv.nn import conversion
from lowerconv.nn.conversion import Conversions, compute, takes_half_tensors
from lowerconv.nn.execution_order import ExecutionOrder
from lowerconv.nn.frame import Frame, HalfTensor, Tensor
from lowerconv.nn.graph import Graph, Value
from lowerconv.nn.hooks import Gate, Watch
from lowerconv.nn.memory import Arena, MemoryReport
from lowerconv.nn.planning import InputGrad, MemoryPlan
from lowerconv.nn.recording import check_fits, graph_for, make_graph, parameter_dtype
from lowerconv.nn.replay import Replay
from lowerconv.nn.sharing import Execution, TrainingStep, begin, go_on
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.runtime.affinity import generation
from lowerconv.runtime.threads import FairMutex, get_num_threads

if TYPE_CHECKING:
    from lowerconv.nn.layer import Layer
    from lowerconv.nn.module import Module

PROGRAMS = 8  # kept by an execution, the latest: a megabyte each, beside the arena they share
Shape = tuple[int, ...]
Arrays: TypeAlias = "np.ndarray | tuple[np.ndarray, ...]"  # the input of a network, or its inputs


@not_copied("copy the network, which plans anew")
class Program:
    """All that a step does, decided: fused nodes, kernels, and the memory of every array.

    Parameters
    ----------
    module : Module
    graph : Graph
        Of the module, not to be changed any more.
    training : bool
    input_grad : bool or tuple of bool
        As of `Step`.
    arena : Arena
        Memory, that programs of the same network may share.
    constant : bool
        Whether parameters are kept as they are: copies of them are folded together and packed.

    Attributes
    ----------
    learners : list of Layer
        Those that a step in training changes: with parameters, or with buffers.
    training_step : TrainingStep or None
        The latest.
    """

    def __init__(
        self,
        module: Module,
        graph: Graph,
        training: bool,
        input_grad: InputGrad,
        arena: Arena,
        constant: bool = False,
    ) -> None:
        self.training, self.arena, self.constant = training, arena, constant
        self.graph = graph
        self.plan = plan = MemoryPlan(graph, training, input_grad)
        kept = 2 * graph.parameter_bytes  # their gradients beside them, or copies
        self._generation = -1
        self._placed: list[tuple[Tensor, int]] = []
        self._inputs = {value: Tensor(value.shape, value.dtype) for value in graph.inputs}
        self._tensors: dict[tuple[Value, bool], Tensor] = {}
        self.results = [self._tensor(value) for value in graph.results]
        self.dresults = [self._tensor(v, True) if v in plan.learnt else None for v in graph.results]
        self.dxs = [self._tensor(v, True) if v in plan.learnt else None for v in graph.inputs]
        self.steps: list[tuple[Layer, Frame]] = []
        written = set(graph.results)
        frames, self._plans = {}, LikePlans()
        for node in reversed(graph.nodes):  # as gradients are written
            frames[node] = self._frame(node, constant, written)
        half = HalfTensor in set(map(type, (*self._inputs.values(), *self._tensors.values())))
        for node in graph.nodes:
            frame = frames[node]
            if half and frame.has_half and not takes_half_tensors(node.layer, frame):
                frame = Conversions(frame).frame
            node.layer.prepare(frame)
            self.steps.append((node.layer, frame))
        scratch = (frame.scratch_bytes for _, frame in self.steps)
        self.nbytes = plan.nbytes + max(scratch, default=0)
        shapes = tuple(value.shape for value in graph.inputs)
        x_shape: Any = shapes[0] if len(shapes) == 1 else shapes
        check_fits(module, x_shape, training, self.nbytes + kept)
        self.learners = [
            node.layer
            for node in graph.nodes
            if training and (node.layer.own_parameters() or node.layer.own_buffers())
        ]
        self.unreached = [  # whose results no gradient comes to
            layer for layer, frame in self.steps if frame.dy is None and layer in self.learners
        ]
        self.training_step: TrainingStep | None = None
        self._captured: Replay | None = None  # the latest
        self._replay: Replay | None = None

    def _tensor(self, value: Value, gradient: bool = False) -> Tensor:
        """Return the one tensor of a value or gradient."""
        if value in self._inputs and not gradient:
            return self._inputs[value]
        tensor = self._tensors.get((value, gradient))
        if tensor is None:
            place = (self.plan.gradients if gradient else self.plan.values)[value]
            kind = Tensor if value.half is None else HalfTensor
            tensor = kind(value.shape, value.stored, place.image_step)
            self._tensors[value, gradient] = tensor
            offset = place.block.offset + place.offset * value.stored.itemsize
            self._placed.append((tensor, offset))
        return tensor

    def _frame(self, node: Any, constant: bool, written: set[Value]) -> Frame:
        xs = tuple(self._tensor(value) for value in node.operands)
        frame = Frame(node.name, node.result.dtype, xs, self._tensor(node.result))
        frame.training, frame.constant = self.training, constant
        frame.activation, frame.node_number = node.activation, node.number
        frame.filters, frame.plans = self.arena.filters, self._plans
        frame.views = self.plan.lies_in(node)
        if node.residual is not None:
            frame.residual = self._tensor(node.residual)
            frame.over_residual = self.plan.values[node.result] == self.plan.values.get(
                node.residual
            )
        if node.result not in self.plan.learnt:
            return frame
        frame.dy = self._tensor(node.result, True)
        frame.views_gradient = self.plan.lies_in(node, gradient=True)

        def target(value: Value) -> tuple[Tensor | None, bool]:
            """Return where the next part of a gradient goes, and whether others came before."""
            adds = value in written
            written.add(value)
            return self._tensor(value, True) if value in self.plan.learnt else None, adds

        if node.residual is not None:
            frame.dresidual, frame.add_residual = target(node.residual)
        dxs, adds = zip(*map(target, node.operands), strict=True)
        frame.dxs, frame.adds = dxs, adds
        return frame

    def _place(self) -> None:
        """Put all tensors into the arena, where it has moved."""
        self.arena.reserve(self.nbytes)
        if self._generation == self.arena.generation:
            return
        self._captured = self._replay = None
        memory = self.arena.memory
        for tensor, offset in self._placed:
            tensor.place(memory[offset:])
        for _, frame in self.steps:
            frame.scratch = memory[self.plan.nbytes : self.plan.nbytes + frame.scratch_bytes]
            if frame.conversions is not None:
                frame.conversions.place(frame.scratch)
        for (node, name), block in self.plan.saved.items():
            frame = self.steps[self.plan.forward[node]][1]
            shape, dtype = node.layer.saved(*(value.shape for value in node.operands))[name]
            nbytes = prod(shape) * dtype.itemsize
            piece = memory[block.offset : block.offset + nbytes]
            frame.saved[name] = piece.view(dtype).reshape(shape)
        self._generation = self.arena.generation  # last, whatever interrupts it

    def forward(
        self,
        x: Arrays,
        step: Step,
        watches: Collection[Watch] = (),
        gates: Collection[Gate] = (),
    ) -> Any:
        """Compute the results for `x`; see `Module.run`."""
        self._place()
        self.arena.user = None  # whatever interrupts it
        for tensor, given in zip(self._inputs.values(), arrays_of(x), strict=True):
            tensor.place(contiguous(given, "x").reshape(-1))
        if self.constant and not watches and not gates:
            self._infer(step)
        else:
            for layer, frame in self.steps:
                for gate in gates:
                    gate(layer)
                compute(layer, frame, step)
                for watch in watches:
                    watch(layer, frame, "forward")
        self._step = step
        self.arena.user = self if self.training else None
        arrays = tuple(result.array for result in self.results)
        if not self.training:
            for tensor in self._inputs.values():  # of many programs, all images together are large
                tensor.leave()
        return arrays if len(arrays) > 1 else arrays[0]

    def _infer(self, step: Step) -> None:
        """Compute all steps: capturing what they launch, until that is the same twice; then so."""
        if self._replay is not None and self._replay.valid:
            self._replay.run(step)
            return
        before, self._captured, self._replay = self._captured, None, None
        self._captured = Replay(self.steps, step, self._inputs.values(), before)
        if before is not None and self._captured.same_as(before):
            self._replay = self._captured

    def backward(self, dy: tuple[np.ndarray, ...], watches: Collection[Watch] = ()) -> Any:
        """Compute all gradients; see `Module.backward`."""
        if self.arena.user is not self:
            raise RuntimeError("backward: the network ran again, or differentiated, since its run")
        if len(dy) != len(self.results):
            raise TypeError(f"dy: got {len(dy)} arrays, expected {len(self.results)}")
        for given, result in zip(dy, self.results, strict=True):
            plain_array(given, "dy")
            if given.shape != result.shape or given.dtype != result.array.dtype:
                raise ValueError(
                    f"dy: got {given.dtype} {given.shape}, expected {result.array.dtype} "
                    f"{result.shape}"
                )
        self.arena.user = None  # activations are overwritten from here on
        for given, target in zip(dy, self.dresults, strict=True):
            if target is not None:
                target.array[...] = given
        left: tuple[Layer, Frame] | None = None

        def finish() -> None:
            if left:
                conversion.differentiate_weights(*left, self._step)
                for watch in watches:
                    watch(*left, "backward")

        for layer, frame in reversed(self.steps):
            if frame.dy is not None:
                conversion.differentiate(layer, frame, self._step)
            finish()  # what the node before has left
            later = layer.execution_order is ExecutionOrder.WEIGHT_GRADIENTS_LATER
            left = (layer, frame) if frame.dy is not None and later else None
            if frame.dy is not None and not later:
                for watch in watches:
                    watch(layer, frame, "backward")
        finish()
        for layer in self.unreached:
            for parameter in layer.own_parameters().values():
                parameter.grad[...] = 0
        arrays = tuple(dx.array if dx is not None else None for dx in self.dxs)
        return arrays if len(arrays) > 1 else arrays[0]

    def report(self, module: Module) -> MemoryReport:
        """Return the memory of a step."""
        data = [parameter.data.nbytes for parameter in module.parameters().values()]
        buffers = sum(array.nbytes for array in module.buffers().values())
        return MemoryReport(
            parameters=sum(data) + buffers,
            parameter_gradients=sum(data) if self.training else 0,
            activations=self.plan.bytes_of("activations"),
            gradients=self.plan.bytes_of("gradients"),
            saved=self.plan.bytes_of("saved"),
            arena=self.nbytes,
            workspace=max((frame.workspace_bytes for _, frame in self.steps), default=0),
        )


def arrays_of(x: Arrays) -> tuple[np.ndarray, ...]:
    """Return the inputs as a tuple."""
    return x if isinstance(x, tuple) else (x,)


def program_of(
    module: Module, execution: Execution, x: Arrays, training: bool, input_grad: InputGrad
) -> Program:
    """Return the program of a module for an input, from those kept where it was made before."""
    for given in arrays_of(x):
        plain_array(given, "x")
    if isinstance(x, tuple):
        shape: Any = tuple(given.shape for given in x)
        dtype: Any = tuple(given.dtype for given in x)
    else:
        shape, dtype = x.shape, x.dtype
    setting = get_num_threads(), generation(), module._structures, module.precision
    contents = {i: arrays_of(x)[i].copy() for i in module.looked_at}
    seen = tuple(array.tobytes() for array in contents.values())
    key = (shape, dtype, training, input_grad, seen, *setting)
    programs = execution.programs
    program = programs.pop(key, None)
    if program is None:
        module.check_input(*arrays_of(x))
        if training and module.frozen:
            raise RuntimeError("run: the parameters of this network are frozen, expected others")
        graph = graph_for(module, execution.templates, shape, dtype, contents, (seen, setting))
        if graph is None:
            graph = make_graph(module, shape, dtype, training, module.frozen, contents)
        program = Program(module, graph, training, input_grad, execution.arena, module.frozen)
        while len(programs) >= PROGRAMS:
            programs.pop(next(iter(programs))).graph.release()
    programs[key] = program  # the latest is last
    return program


def run(module: Module, x: Arrays, step: Step, watches: Collection[Watch] | None = None) -> Any:
    """Compute with what the calling thread has of its own; see `Module.run`.

    `watches` are told of this run instead of those that the module has.
    """
    if watches is None:
        watches = tuple(module._watches.values())
    gates = tuple(module._gates.values())
    execution = _own(module, "run")
    with execution.running:
        program = program_of(module, execution, x, step.training, step.input_grad)
        if not step.training:
            execution.current = program
            return program.forward(x, step, watches, gates)
        training = TrainingStep()
        with training.inside:
            begin(program.learners, training)
            program.training_step = training
            execution.current = program
            return program.forward(x, step, watches, gates)


def backward(module: Module, dy: tuple[np.ndarray, ...]) -> Any:
    """Compute the gradients of the calling thread's run; see `Module.backward`."""
    execution = _own(module, "backward")
    program = execution.current
    if program is None or program.training_step is None:
        raise RuntimeError("backward: no run with training=True came before in this thread")
    with execution.running, program.training_step.inside:
        go_on(program.learners, program.training_step)
        return program.backward(dy, tuple(module._watches.values()))


def _own(module: Module, what: str) -> Execution:
    """Return the execution of a module that is the calling thread's own, and not at work."""
    execution = module._use.own.execution
    if execution.running.locked():  # by this very thread: in a signal's handler, or in a watch
        raise RuntimeError(f"{what}: the thread is inside a run of this network, expected outside")
    return execution


def infer(module: Module, x: Arrays) -> Any:
    """Return the results of inference, arrays of the caller's own; threads take turns."""
    with module._use.mutex.hold():
        program = program_of(module, module._use.inference, x, False, False)
        watches, gates = tuple(module._watches.values()), tuple(module._gates.values())
        return _copied(program.forward(x, INFERENCE, watches, gates))


def _copied(results: Any) -> Any:
    """Return copies of one array, or of several."""
    return tuple(r.copy() for r in results) if isinstance(results, tuple) else results.copy()


@not_copied("copy the network, and compile the copy")
class Compiled:
    """What `Module.compile` returns: a function that knows addresses, which copies cannot have."""

    def __init__(self, infer: Callable[[np.ndarray], Any]) -> None:
        self._infer = infer

    def __call__(self, x: np.ndarray) -> Any:
        """Return the result for `x`, an array of the caller's own; of several, a tuple."""
        return self._infer(x)


def compiled(module: Module, x_shape: Shape) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function for inference with the parameters as they are; see `Module.compile`."""
    dtype = parameter_dtype(module)
    graph = make_graph(module, x_shape, dtype, False, constant=True)
    program = Program(module, graph, False, False, Arena(), constant=True)
    mutex = FairMutex("a compiled network")

    def infer(x: np.ndarray) -> Any:
        """Return the result for `x`, an array of the caller's own."""
        plain_array(x, "x")
        if x.shape != x_shape or x.dtype != dtype:
            raise ValueError(f"x: got {x.dtype} {x.shape}, expected {dtype} {x_shape}")
        with mutex.hold():
            return _copied(program.forward(x, INFERENCE))

    return Compiled(infer)


def memory_report(module: Module, x_shape: Shape, training: bool) -> MemoryReport:
    """Return the memory of a step; see `Module.memory_report`."""
    graph = make_graph(module, x_shape, parameter_dtype(module), training)
    return Program(module, graph, training, False, Arena()).report(module)
