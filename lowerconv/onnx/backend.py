"""What ONNX calls a backend: how its own suite of tests, and tools that know it, run a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowerconv.onnx.load import load
from lowerconv.onnx.network import OnnxNetwork
from lowerconv.onnx.reader import import_onnx

import_onnx()
from onnx import helper  # noqa: E402
from onnx.backend import base  # noqa: E402


class BackendRep(base.BackendRep):
    """A model that is ready to run.

    Parameters
    ----------
    network : OnnxNetwork
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self.network = network

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return all outputs.

        Parameters
        ----------
        inputs : array, sequence of arrays, or dict of arrays by name
        **kwargs
            Not used.

        Returns
        -------
        tuple of ndarray

        Raises
        ------
        TypeError, ValueError
            The inputs are not what the model takes.
        """
        if isinstance(inputs, dict):
            inputs = [inputs[name] for name in self.network.input_names]
        elif isinstance(inputs, np.ndarray):
            inputs = [inputs]
        result = self.network(*map(np.asarray, inputs))
        return result if isinstance(result, tuple) else (result,)


class Backend(base.Backend):
    """Runs ONNX models on this machine's CPUs.

    Examples
    --------
    >>> from lowerconv.onnx.backend import Backend
    >>> Backend.prepare(model).run([images])  # doctest: +SKIP
    """

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """Return a model that is ready to run.

        Parameters
        ----------
        model : onnx.ModelProto
        device : str
            "CPU".
        **kwargs
            Not used.

        Returns
        -------
        BackendRep

        Raises
        ------
        ValueError
            Another device.
        OnnxError
            The model is damaged, or has operators that are not known here.
        """
        if not cls.supports_device(device):
            raise ValueError(f"device: got {device!r}, expected 'CPU'")
        return BackendRep(load(model))

    @classmethod
    def run_node(
        cls,
        node: Any,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Return the outputs of one node.

        Parameters
        ----------
        node : onnx.NodeProto
        inputs : sequence of array
        device : str
            "CPU".
        outputs_info : sequence, optional
            Not used: shapes and dtypes of the outputs follow from the inputs.
        **kwargs
            ``opset_version``; by default the latest that the package onnx has.

        Returns
        -------
        tuple of ndarray

        Raises
        ------
        ValueError, OnnxError
            As `prepare`.
        """
        arrays = [np.asarray(x) for x in inputs]
        names = [name for name in node.input if name]
        known = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        made = [helper.make_tensor_value_info(name, 0, None) for name in node.output if name]
        versions = [helper.make_opsetid("", kwargs["opset_version"])] if kwargs else None
        graph = helper.make_graph([node], "node", known, made)
        return cls.prepare(helper.make_model(graph, opset_imports=versions), device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether a device is the CPU.

        Parameters
        ----------
        device : str
            Such as "CPU" or "CUDA:1".

        Returns
        -------
        bool
        """
        return device.partition(":")[0] == "CPU"
