"""Convolutions of many shapes, each algorithm and pass, whose results are known beforehand."""

from typing import NamedTuple

import numpy as np

import lowerconv as lc
from lowerconv.conv.problem import conv_problem

#          x, w, padding
SHAPES = [
    ((3, 8, 12, 12), (16, 8, 3, 3), 1),
    ((1, 5, 17, 9), (7, 5, 1, 1), 0),
    ((2, 16, 9, 20), (33, 16, 3, 2), 0),
    ((5, 3, 20, 20), (24, 3, 5, 5), 2),
    ((1, 64, 14, 14), (48, 64, 3, 3), 1),
]


class Work(NamedTuple):
    """One convolution and its gradients, by one algorithm."""

    algorithm: str
    x: np.ndarray
    w: np.ndarray
    dy: np.ndarray
    padding: int

    def run(self) -> list[np.ndarray]:
        """Return the results of the three passes."""
        x, w, dy, options = self.x, self.w, self.dy, {"algorithm": self.algorithm}
        return [
            lc.conv2d(x, w, padding=self.padding, **options),
            lc.conv2d_input_grad(dy, w, x.shape, padding=self.padding, **options),
            lc.conv2d_weight_grad(dy, x, w.shape, padding=self.padding, **options),
        ]


def works(count: int, seed: int = 0) -> list[Work]:
    """Return different convolutions; those of one seed are always the same."""
    rng = np.random.default_rng(seed)
    names = lc.algorithms()
    made = []
    for number in range(count):
        name = names[(number + number // len(names)) % len(names)]
        taken = [s for s in SHAPES if name in lc.algorithms(conv_problem(s[0], s[1], padding=s[2]))]
        x_shape, w_shape, padding = taken[number % len(taken)]
        dy_shape = (
            x_shape[0],
            w_shape[0],
            *(x_shape[i] + 2 * padding - w_shape[i] + 1 for i in (2, 3)),
        )
        arrays = (
            rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape, dy_shape)
        )
        made.append(Work(name, *arrays, padding))
    return made


def same(results: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Return whether all bits agree: the number of threads changes none."""
    return all(map(np.array_equal, results, expected))
