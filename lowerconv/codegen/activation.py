"""What happens to results last: a function of each of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Those that `codegen.epilogue` can write; of the others the last pass is one of its own.
IN_REGISTERS = ("affine", "clip", "hard_sigmoid", "hard_swish", "leaky_relu", "relu")


class Activation(NamedTuple):
    """A function of one number.

    Attributes
    ----------
    function : str
        "relu", or one of `lowerconv.ops.pointwise.FUNCTIONS`, where the formulas are.
    a, b : float
        Its constants.
    scale, shift : float
        The results are multiplied with `scale`, and then `shift` is added; not those of ReLU.
    """

    function: str
    a: float = 0.0
    b: float = 0.0
    scale: float = 1.0
    shift: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether the results are scaled or shifted."""
        return (self.scale, self.shift) != (1.0, 0.0)

    @property
    def in_registers(self) -> bool:
        """Whether kernels can apply the function before they store."""
        return self.function in IN_REGISTERS

    @property
    def kind(self) -> Activation:
        """What kernels are made for: the function, and whether it scales; they read constants."""
        return Activation(self.function, shift=float(self.is_scaled))

    def constants(self, dtype: np.dtype) -> np.ndarray:
        """Return the array whose address kernels take that apply the function in registers."""
        return np.array(self[1:], dtype)


RELU = Activation("relu")
