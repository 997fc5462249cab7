"""Convolutions on CPUs and CPU clusters.

The way of the data, from the public function to the innermost loop::

    conv2d(x, w)            functional.py   check the arguments
      -> ConvPlan           plan.py         decide once: algorithm, blocks, workspace
        -> pipeline         pipeline/       lay the pieces over the cores
          -> kernel         kernels/        lower a panel, multiply it, store the product

A convolution is *lowered* (im2col) to a matrix product piece by piece.  In the fused engine
lowering disappears into addressing: generated microkernels multiply straight from a padded band of
the image, while the next band is on its way to the cache.  `lowerconv.nn` builds networks of such
layers, `lowerconv.train` trains them, `lowerconv.parallel` over several processes.
"""

import importlib
from typing import Any

from lowerconv.conv.plan import ConvPlan, algorithms, plan_conv2d
from lowerconv.functional import conv2d, conv2d_input_grad, conv2d_weight_grad
from lowerconv.runtime.affinity import get_affinity, set_affinity
from lowerconv.runtime.report import machine_report
from lowerconv.runtime.threads import get_num_threads, set_num_threads
from lowerconv.version import __version__

__all__ = [
    "ConvPlan",
    "__version__",
    "algorithms",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "get_affinity",
    "get_num_threads",
    "machine_report",
    "plan_conv2d",
    "set_affinity",
    "set_num_threads",
]


def __getattr__(name: str) -> Any:
    """Import the doors to other libraries when they are first used."""
    if name in ("onnx", "torch"):
        return importlib.import_module(f"lowerconv.{name}")
    raise AttributeError(f"module 'lowerconv' has no attribute {name!r}")
