"""The scale of a loss whose gradients are fp16: as large as they can be without an overflow.

Micikevicius et al., "Mixed precision training" (ICLR 2018), section 3.2: of many gradients all that
fp16 can hold is zero, unless the loss is multiplied first.  The scale grows while all goes well,
and what overflows all the same is left out, with a smaller scale for the next step.  Scales are
powers of two, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lowerconv.codegen.ranges import share
from lowerconv.nn.divergence import DivergenceError
from lowerconv.runtime.launch import parallel
from lowerconv.runtime.team import TeamHandle
from lowerconv.runtime.threads import get_num_threads, run

FIRST, LARGEST = 2.0**16, 2.0**24
GOOD = 2000  # steps in a row, after which the scale is doubled


@parallel
def _unscale(worker, workers, gradient, factor, finite):
    """Multiply in place; set a worker's item of `finite` to whether all of its share is finite."""
    first, last = share(gradient.size, worker, workers)
    good = True
    for i in range(first, last):
        value = gradient[i] * factor
        gradient[i] = value
        good &= value - value == 0  # NaN of what is not finite
    finite[worker] = good


class LossScale:
    """The scale, and how many steps in a row have been made with it.

    Ranks that have the same gradients keep the same scale.

    Parameters
    ----------
    first : float
        A power of two, such as 2.0**16.
    good : int
        Steps in a row, after which the scale is doubled.

    Attributes
    ----------
    state : ndarray, (2,), float64
        The scale and the number of steps, which checkpoints keep.
    """

    def __init__(self, first: float = FIRST, good: int = GOOD) -> None:
        self.state = np.array([first, 0.0])
        self.good = good

    @property
    def value(self) -> float:
        """What the loss of the next step is multiplied by."""
        return float(self.state[0])

    def scale(self, gradients: Iterable[np.ndarray]) -> None:
        """Multiply the gradients of the loss, with which a backward step begins.

        Parameters
        ----------
        gradients : iterable of ndarray
        """
        for gradient in gradients:
            gradient *= gradient.dtype.type(self.value)

    def unscale(self, gradient: np.ndarray, team: TeamHandle | None = None) -> bool:
        """Divide gradients by the scale; tell whether they are good, and think of the next scale.

        Parameters
        ----------
        gradient : ndarray, 1-D
            Of all parameters.
        team : TeamHandle, optional
            The threads that compute; by default all.

        Returns
        -------
        bool
            Whether all are finite; else the step is to be left out.

        Raises
        ------
        DivergenceError
            They are not, however small the scale.
        """
        finite = np.ones(max(1, get_num_threads()), np.uint8)
        arguments = gradient, gradient.dtype.type(1 / self.value), finite
        if team is None:
            run(_unscale, *arguments)
        else:
            _unscale(team, *arguments)
        scale, steps = self.state
        if not finite.all():
            if scale <= 1:
                raise DivergenceError(
                    "gradients are not finite, and the loss is not scaled any more; a smaller "
                    "learning rate or precision 'bf16' may help; earlier checkpoints are whole"
                )
            self.state[:] = scale / 2, 0
            return False
        steps += 1
        if steps >= self.good:
            scale, steps = min(2 * scale, LARGEST), 0
        self.state[:] = scale, steps
        return True
