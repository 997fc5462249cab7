"""Arithmetic with constants, on either side, in memory that the operand has as well."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn import functional as F
from lowerconv.nn.activation import ReLU

OPERATIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
SHAPES = [((4,), (4,)), ((2, 3), (2, 3)), ((1, 3, 2, 2), (1, 3, 2, 2)), ((2, 3, 2, 2), (3, 1, 1))]


class Net(nn.Module):
    """A constant and what it is combined with, which nobody reads afterwards."""

    def __init__(self, operation, constant, first):
        super().__init__()
        self.operation, self.constant, self.first = operation, constant, first

    def forward(self, x):
        y = F.apply(ReLU(), F.pointwise(x, "abs"))
        operands = (self.constant, y) if self.first else (y, self.constant)
        return F.arithmetic(self.operation, *operands)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape, other", SHAPES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_constant_on_either_side(operation, shape, other, first):
    rng = np.random.default_rng(0)
    x, constant = rng.standard_normal(shape), 1 + rng.random(other)
    pair = (constant, abs(x)) if first else (abs(x), constant)
    expected = OPERATIONS[operation](*pair)
    np.testing.assert_allclose(Net(operation, constant, first)(x), expected)
    step = nn.Step(training=True)
    np.testing.assert_allclose(Net(operation, constant, first).run(x, step), expected)
