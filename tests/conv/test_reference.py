"""The reference itself: against the defining sum, the adjoint identity and finite differences."""

from itertools import product

import numpy as np
import pytest

from . import reference
from .cases import BLOCKS, EDGES, Case, by_case, data_of
from .reference import Array

SMALL = [
    Case("plain", (2, 2, 4, 3), (3, 2, 2, 2)),
    Case("stride", (1, 2, 6, 5), (2, 2, 3, 2), stride=(3, 2)),
    Case("padding", (1, 1, 3, 2), (2, 1, 2, 3), padding=((2, 0), (1, 3))),
    Case("same", (1, 1, 3, 4), (1, 1, 2, 4), padding="same"),
    Case("dilation", (1, 2, 5, 4), (1, 2, 2, 2), padding=1, dilation=(3, 2)),
    Case("groups", (2, 4, 3, 3), (6, 2, 2, 2), groups=2),
    Case("everything", (2, 4, 6, 5), (4, 2, 2, 3), (2, 3), ((1, 0), (2, 1)), (2, 1), 2),
]


def defining_sum(x: Array, w: Array, bias: Array, case: Case) -> Array:
    """The convolution as the textbook writes it: every product fetched by its indices."""
    stride, padding, dilation, groups = case.geometry
    y = np.zeros(case.y)
    k_per_group, c_per_group = w.shape[0] // groups, w.shape[1]
    for n, k, p, q in np.ndindex(y.shape):
        y[n, k, p, q] = bias[k]
        for c, r, s in product(*map(range, w.shape[1:])):
            h = p * stride[0] + r * dilation[0] - padding[0][0]
            v = q * stride[1] + s * dilation[1] - padding[1][0]
            if 0 <= h < x.shape[2] and 0 <= v < x.shape[3]:
                channel = k // k_per_group * c_per_group + c
                y[n, k, p, q] += x[n, channel, h, v] * w[k, c, r, s]
    return y


@by_case(SMALL)
def test_forward_is_the_defining_sum(case: Case) -> None:
    x, w, bias, _ = data_of(case, "float64")
    expected = defining_sum(x, w, bias, case)
    y = reference.forward(x, w, bias, case.geometry)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-13)


def test_forward_of_numbers_worked_out_by_hand() -> None:
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    w = np.array([[[[1.0, 10.0], [100.0, 1000.0]]]])
    y = reference.forward(x, w, np.array([0.5]), reference.geometry(w.shape))
    # 1000 falls on the pixel to the lower right: a correlation, the kernel is not turned.
    assert y.tolist() == [[[[4310.5, 5421.5], [7643.5, 8754.5]]]]


@by_case(SMALL + EDGES + BLOCKS)
def test_gradients_are_adjoint_to_forward(case: Case) -> None:
    x, w, _, dy = data_of(case, "float64")
    geo = case.geometry
    with_y = np.vdot(dy, reference.forward(x, w, None, geo))
    with_x = np.vdot(reference.input_grad(dy, w, case.x, geo), x)
    with_w = np.vdot(reference.weight_grad(dy, x, case.w, geo), w)
    # The terms summed are of either sign: measure against their size, not against what is left.
    scale = np.linalg.norm(dy) * np.linalg.norm(reference.forward(x, w, None, geo))
    assert with_x == pytest.approx(with_y, rel=0, abs=1e-13 * scale)
    assert with_w == pytest.approx(with_y, rel=0, abs=1e-13 * scale)


@by_case(SMALL)
def test_gradients_are_finite_differences(case: Case) -> None:
    x, w, _, dy = data_of(case, "float64")
    geo = case.geometry

    def loss(x: Array, w: Array) -> float:
        return float(np.vdot(dy, reference.forward(x, w, None, geo)))

    # The loss is linear in each argument, so central differences are exact but for rounding.
    by_x = [(loss(x + e, w) - loss(x - e, w)) / 2 for e in unit_steps(x)]
    by_w = [(loss(x, w + e) - loss(x, w - e)) / 2 for e in unit_steps(w)]
    dx = reference.input_grad(dy, w, case.x, geo)
    dw = reference.weight_grad(dy, x, case.w, geo)
    np.testing.assert_allclose(dx.ravel(), by_x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(dw.ravel(), by_w, rtol=0, atol=1e-11)


def unit_steps(a: Array) -> list[Array]:
    """One array per entry of ``a``: zero but for a one there."""
    return list(np.eye(a.size).reshape(a.size, *a.shape))
