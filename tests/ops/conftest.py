"""Image tensors as kernels take them, and what lies around them."""

from typing import NamedTuple

import numpy as np
import pytest

from lowerconv.ops.images import Images


class Tensor(NamedTuple):
    """Some channels of a larger tensor: what the kernel is given, and what lies around it."""

    whole: np.ndarray  # (N, C + more, ...)
    images: Images
    values: np.ndarray  # the view of the channels
    first: int  # of them

    def neighbours_untouched(self) -> bool:
        """Whether the other channels still hold what `tensor` put there."""
        others = self.whole.copy()
        others[:, self.first : self.first + self.values.shape[1]] = 77
        return bool((others == 77).all())


def _tensor(values: np.ndarray, sliced: bool = True) -> Tensor:
    """Return `values` (N, C, ...) as channels 2 and following of a larger tensor, or plain."""
    N, C, *rest = values.shape
    before, after = (2, 1) if sliced else (0, 0)
    whole = np.full((N, before + C + after, *rest), 77, values.dtype)
    whole[:, before : before + C] = values
    pixels = int(np.prod(rest))
    H, W = rest if len(rest) == 2 else (1, pixels)
    flat = whole.reshape(-1)[before * pixels :]
    images = Images(flat, whole.shape[1] * pixels, N, C, H, W)
    return Tensor(whole, images, whole[:, before : before + C], before)


@pytest.fixture(scope="session")
def tensor():
    """Return the function that makes one."""
    return _tensor
