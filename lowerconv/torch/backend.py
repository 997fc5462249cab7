"""``torch.compile(model, backend="lowerconv")``: what is ours of a traced function runs here."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lowerconv.torch.convert import Converted
from lowerconv.torch.registry import UnsupportedError

VARIANTS = 8  # of the parameters that a traced function is called with, the latest


class _Holder(torch.nn.Module):
    """A traced function with its parameters and buffers as a module has them.

    Parameters
    ----------
    function : GraphModule
    parts : dict of int to Tensor
        Parameters and buffers by their places among the arguments.
    """

    def __init__(self, function: torch.fx.GraphModule, parts: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.places = parts.keys()
        for place, tensor in parts.items():
            if isinstance(tensor, torch.nn.Parameter):
                self.register_parameter(f"p{place}", tensor)
            else:
                self.register_buffer(f"p{place}", tensor)

    def forward(self, *inputs: Any) -> Any:
        """Call the function with everything at its place."""
        rest, args = list(inputs), []
        for place in range(len(inputs) + len(self.places)):
            args.append(getattr(self, f"p{place}") if place in self.places else rest.pop(0))
        return self.function(*args)


def backend(function: torch.fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Return a traced function that runs here, or the function itself with a warning of why.

    Gradients go through one function of autograd, as those of `lowerconv.torch.convert`.

    Parameters
    ----------
    function : torch.fx.GraphModule
        As TorchDynamo traces it.
    example_inputs : sequence of Tensor
        Parameters and buffers among them.

    Returns
    -------
    callable
        Takes what `function` takes, and returns what that returns.
    """
    inputs = [n for n in function.graph.nodes if n.op == "placeholder"]
    fixed = [i for i, node in enumerate(inputs) if _is_part(node, example_inputs[i])]
    made: dict[Any, Converted] = {}
    told: set[str] = set()

    def run(*args: Any) -> Any:
        parts = {i: args[i] for i in fixed}
        rest = [arg for i, arg in enumerate(args) if i not in parts]
        key = tuple(map(id, parts.values()))
        module = made.get(key)
        if module is None:
            while len(made) >= VARIANTS:
                del made[next(iter(made))]
            module = made[key] = Converted(_Holder(function, parts), True)
        try:
            return module(*rest)
        except UnsupportedError as error:
            if str(error) not in told:
                told.add(str(error))
                warnings.warn(
                    f"a part of a model runs in PyTorch, not in lowerconv: {error}", stacklevel=2
                )
            return function(*args)

    return torch.compiler.disable(run)


def _is_part(node: Any, example: Any) -> bool:
    """Return whether an argument is a parameter or buffer of a module."""
    if isinstance(example, torch.nn.Parameter):
        return True
    if not isinstance(example, torch.Tensor):
        return False
    return bool((node.meta.get("tensor_dict") or {}).get("_dynamo_static_input_type"))
