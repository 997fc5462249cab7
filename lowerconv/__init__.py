"""Convolutions on CPUs and CPU clusters.

From the public function to the innermost loop::

    conv2d(x, w)        functional.py           checks the arguments
      ConvPlan          conv/plan.py            made once: algorithm, schedule, workspace
        Schedule        conv/schedule.py        MR, NR, KC, NC, and which worker computes what
          macrokernel   conv/macrokernel.py     one worker's blocks: packs filters, lowers pixels
            microkernel codegen/microkernel.py  MR x NR sums in registers, as emitted code

`lowerconv.nn` builds networks of such layers, `lowerconv.train` trains them, on several processes
by `lowerconv.parallel`.
"""

import importlib
from typing import Any

from lowerconv.conv.plan import ConvPlan, algorithms
from lowerconv.conv.plan_conv2d import plan_conv2d
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
    "quantize",
    "set_affinity",
    "set_num_threads",
]


def __getattr__(name: str) -> Any:
    """Import networks of integers, and those of other libraries, when they are first used."""
    if name == "quantize":
        return importlib.import_module("lowerconv.quant").quantize
    if name in ("onnx", "torch"):
        return importlib.import_module(f"lowerconv.{name}")
    raise AttributeError(f"module 'lowerconv' has no attribute {name!r}")
