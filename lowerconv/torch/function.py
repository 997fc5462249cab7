"""A whole network as one function of autograd."""

from __future__ import annotations

from operator import is_
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from lowerconv.nn.step import Step
from lowerconv.torch.leaves import Tensors
from lowerconv.torch.network import array_of
from lowerconv.torch.runner import Latest, Runner


class Job:
    """A run: what its forward step leaves for its backward step.

    Parameters
    ----------
    runner : Runner
    lock : RLock
        Held by whoever computes with the runner.
    tensors : list of Tensor
        The module's, as `Leaves.look` returned them.
    seed : int
        Of dropout.
    inputs : int
        Tensors that the module is called with.
    """

    __slots__ = ("inputs", "latest", "lock", "runner", "seed", "step", "tensors", "versions")

    def __init__(self, runner: Runner, lock: Any, tensors: Tensors, seed: int, inputs: int) -> None:
        self.runner, self.lock, self.tensors, self.seed = runner, lock, tensors, seed
        self.inputs = inputs
        self.step: Step | None = None
        self.latest: Latest | None = None
        self.versions: Any = None


class Run(torch.autograd.Function):
    """The network, of a `Job`, its inputs, and the parameters and buffers that it reads."""

    @staticmethod
    def forward(ctx: Any, job: Job, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the results of the network."""
        runner, inputs = job.runner, tensors[: job.inputs]
        arrays = tuple(map(array_of, inputs))
        job.step = runner.step(job.seed, ctx.needs_input_grad[1 : 1 + job.inputs])
        ctx.job = job
        ctx.save_for_backward(*inputs)
        if not runner.exported.trains:
            # The gradient's network runs when somebody asks for gradients: answers are quicker.
            job.versions = runner.leaves.versions(job.tensors)
            results = runner.infer(arrays, job.versions)
        else:
            results, job.latest = runner.train(job.tensors, arrays, job.step)
            job.versions = runner.leaves.versions_read(job.tensors)
        places = {i for i, r in enumerate(results) if not r.is_floating_point()}
        places.update(runner.fixed(ctx.needs_input_grad[1:]))
        if places:
            ctx.mark_non_differentiable(*(results[i] for i in places))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor | None) -> Any:
        """Return the gradients of inputs and parameters; those have none in turn."""
        # That nobody asks for more is seen at once, without what the other way does around it.
        return (_refusing if torch.is_grad_enabled() else _gradients)(ctx, *dys)


def _gradients(ctx: Any, *dys: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    job: Job = ctx.job
    runner = job.runner
    inputs = ctx.saved_tensors  # raises where one has changed since
    assert job.step is not None
    with job.lock:
        now = runner.leaves.look()
        if now is None or not all(map(is_, now, job.tensors)):
            raise RuntimeError(
                "backward: a parameter or buffer is another tensor since the forward step"
            )
        versions = (
            runner.leaves.versions if not runner.exported.trains else runner.leaves.versions_read
        )
        if versions(now) != job.versions:
            raise RuntimeError(
                "backward: a parameter or buffer was modified since the forward step"
            )
        arrays = tuple(map(array_of, inputs))
        wanted = ctx.needs_input_grad[1 + job.inputs :]
        dxs, made = runner.gradients(job.latest, now, arrays, job.step, dys, wanted)
    return (None, *dxs, *made)


_refusing = once_differentiable(_gradients)
