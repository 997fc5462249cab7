"""Adam, and AdamW."""

from __future__ import annotations

from math import sqrt

import numpy as np

from lowerconv.nn.module import Module
from lowerconv.nn.optim.optimizer import Optimizer, Weights, check_range, share_of
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.team import TeamHandle


# numpy's model of errors: Python's check for division by zero keeps loops from being vector code.
@parallel(error_model="numpy")
def _adam(worker, workers, weights, kept, mean, square, numbers):
    data, grad, bounds, decays, _, _ = weights
    part1, beta2, part2, size, root, eps = numbers
    first, last = share_of(weights, worker, workers)
    for p in range(decays.size):
        decay, keep = decays[p], kept[p]
        low, high = max(first, bounds[p]), min(last, bounds[p + 1])
        w, g, m, v = data[low:high], grad[low:high], mean[low:high], square[low:high]
        for i in range(high - low):
            change = g[i] + decay * w[i]
            m[i] += part1 * (change - m[i])
            v[i] = beta2 * v[i] + part2 * change * change
            w[i] = keep * w[i] - size * m[i] / (np.sqrt(v[i]) / root + eps)


class Adam(Optimizer):
    """Steps of a size that does not depend on the scale of the gradients, as PyTorch defines them.

    ``m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2``, and at step t
    ``w = w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)``.

    Kingma, Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    network : Module
    lr : float
    betas : (float, float)
    eps, weight_decay : float
    decoupled : bool
        AdamW: weights shrink by ``lr weight_decay`` at each step, and their gradients are left
        alone; else ``g = grad + weight_decay w``. Loshchilov, Hutter, "Decoupled weight decay
        regularization" (2019), algorithm 2.
    decay_biases : bool
        As for :class:`Optimizer`.

    Attributes
    ----------
    mean, square : ndarray, (parameters,)
        The moments m and v.
    """

    def __init__(
        self,
        network: Module,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled: bool = False,
        *,
        decay_biases: bool = False,
    ) -> None:
        for i, beta in enumerate(betas):
            check_range(f"betas[{i}]", beta, 1.0)
        check_range("eps", eps)
        super().__init__(network, lr, weight_decay, decay_biases)
        self.betas, self.eps, self.decoupled = betas, eps, decoupled
        self.mean, self.square = np.zeros_like(self.data), np.zeros_like(self.data)

    def state(self) -> dict[str, np.ndarray]:
        """Return both moments."""
        return {"mean": self.mean, "square": self.square}

    def _update(self, team: TeamHandle, weights: Weights) -> None:
        kind = self.data.dtype.type
        kept = np.ones_like(weights.decays)
        if self.decoupled:
            kept -= kind(self.lr) * weights.decays
            weights = weights._replace(decays=np.zeros_like(kept))
        beta1, beta2 = self.betas
        size = self.lr / (1 - beta1**self.updates)
        root = sqrt(1 - beta2**self.updates)
        numbers = tuple(map(kind, (1 - beta1, beta2, 1 - beta2, size, root, self.eps)))
        _adam(team, weights, kept, self.mean, self.square, numbers)
