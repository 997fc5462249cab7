"""Local response normalisation and its gradient against the formulas and against PyTorch."""

import numpy as np
import pytest

from lowerconv.ops.images import Images
from lowerconv.ops.response_norm import Window, response_norm, response_norm_grad
from lowerconv.runtime.threads import parallel_region

CASES = {
    # shape, size, alpha, beta, k
    "alexnet": ((3, 16, 55), 5, 1e-4, 0.75, 2.0),
    "strong": ((2, 7, 300), 5, 0.9, 0.75, 1.0),
    "root": ((1, 9, 1200), 3, 0.5, 0.5, 1.0),
    "even": ((2, 8, 33), 4, 0.5, 1.0, 2.0),
    "any-power": ((2, 5, 20), 5, 0.3, 0.6, 1.5),
    "one-channel": ((2, 1, 20), 5, 0.3, 0.75, 1.5),
    "wider-than-the-channels": ((2, 4, 20), 13, 3.0, 0.75, 1.0),
    "wide": ((2, 30, 20), 12, 3.0, 0.75, 1.0),
    "window-of-one": ((2, 4, 20), 1, 0.5, 0.75, 1.0),
    "no-images": ((0, 4, 20), 5, 0.5, 0.75, 1.0),
}
cases = pytest.mark.parametrize("name", CASES)


def run(function, threads, *arguments):
    with parallel_region(threads) as team:
        function(team, *arguments)


def images(values):
    N, C, pixels = values.shape
    return Images(values.reshape(-1), C * pixels, N, C, 1, pixels)


def windows(C, size):
    """The matrix that has a one where a channel (column) is in the window of another (row)."""
    inside = np.zeros((C, C))
    for c in range(C):
        inside[c, max(0, c - size // 2) : c + (size - 1) // 2 + 1] = 1
    return inside


def slow(x, dy, size, alpha, beta, k):
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    inside = windows(x.shape[1], size)
    scale = k + alpha / size * np.einsum("cj,njp->ncp", inside, x**2)
    terms = np.einsum("jc,njp->ncp", inside, dy * x * scale ** (-beta - 1))
    return x * scale**-beta, dy * scale**-beta - 2 * alpha * beta / size * x * terms


def draw(name, dtype):
    shape, *parameters = CASES[name]
    rng = np.random.default_rng(11)
    print(name, "seed 11")
    x, dy, there = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    return x, dy, there, (*shape, *parameters)


@cases
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_the_formulas(tensor, name, dtype):
    values, gradient, there, arguments = draw(name, dtype)
    expected, expected_dx = slow(values, gradient, *arguments[3:])
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    window, firsts = Window(*arguments[3:]), None
    for threads in (1, 2, 3, 5):
        x, y = tensor(values), tensor(np.full_like(values, np.nan))
        run(response_norm, threads, x.images, y.images, window)
        np.testing.assert_allclose(y.values, expected, tolerance, tolerance)
        results = [y]
        for add, onto in ((False, False), (True, False), (False, True)):
            dy = tensor(gradient)
            dx = dy if onto else tensor(there if add else np.full_like(there, np.nan))
            operands = dy.images, x.images, dx.images
            run(response_norm_grad, threads, *operands, window, add)
            wanted = expected_dx + there if add else expected_dx
            np.testing.assert_allclose(dx.values, wanted, tolerance, tolerance)
            results.append(dx)
        assert all(t.neighbours_untouched() for t in results)
        firsts = firsts or results
        for one, other in zip(firsts, results, strict=True):
            assert np.array_equal(one.values, other.values)


def test_a_nan_reaches_the_windows_that_have_it():
    x = np.ones((1, 9, 3), np.float32)
    x[0, 4, 1] = np.nan
    y = np.empty_like(x)
    operands = images(x), images(y)
    run(response_norm, 2, *operands, Window(5, 0.5, 0.75, 1.0))
    expected = np.zeros((9, 3), bool)
    expected[2:7, 1] = True
    assert np.array_equal(np.isnan(y[0]), expected)


@pytest.mark.parametrize("k", [1e-7, 1e-6, 0.5, 1e6])
def test_numbers_of_any_size(k):
    """From where a float32 is nothing beside `k` to where its square is infinite."""
    x = np.geomspace(1e-30, 3e38, 400).astype(np.float32).reshape(1, 1, -1)
    x[..., ::2] *= -1
    y = np.empty_like(x)
    window = Window(1, 1e-3, 0.75, k)
    run(response_norm, 2, images(x), images(y), window)
    exact = slow(x, x, *window)[0]
    finite = x.astype(np.float64) ** 2 < np.finfo(np.float32).max
    np.testing.assert_allclose(y[finite], exact[finite], 3e-6)
    assert (y[~finite] == 0).all()


@pytest.mark.parametrize("name", [n for n in CASES if n != "no-images"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_agrees_with_pytorch(name, dtype):
    torch = pytest.importorskip("torch")
    values, dy, _, (_, _, _, *parameters) = draw(name, dtype)
    x = torch.tensor(values, requires_grad=True)
    result = torch.nn.functional.local_response_norm(x, *parameters)
    result.backward(torch.from_numpy(dy))
    y, dx = np.empty_like(values), np.empty_like(values)
    window = Window(*parameters)
    run(response_norm, 2, images(values), images(y), window)
    run(response_norm_grad, 2, images(dy), images(values), images(dx), window, False)
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(y, result.detach().numpy(), tolerance, tolerance)
    np.testing.assert_allclose(dx, x.grad.numpy(), tolerance, tolerance)
