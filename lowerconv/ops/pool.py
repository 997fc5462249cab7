"""Pooling without gradients, by emitted kernels: a plane at a time."""

from __future__ import annotations

import numpy as np

from lowerconv.codegen.ranges import share
from lowerconv.codegen.signatures import PoolPlane
from lowerconv.ops.images import bare_images, plane
from lowerconv.runtime.launch import call, parallel


@parallel
def pool(worker, workers, x, y, windows, kernel):
    """Write the maximum or mean of each window of `x` to `y`.

    Parameters
    ----------
    x, y : Images
    windows : Windows, as a tuple
    kernel : int
        Address of a `codegen.pooling.PoolKernel`.
    """
    x, y = bare_images(x), bare_images(y)
    size, stride, pad = windows
    first, last = share(y.N * y.C, worker, workers)
    for number in range(first, last):
        call(
            kernel,
            PoolPlane(
                source=np.int64(plane(x, number).ctypes.data),
                H=x.H,
                W=x.W,
                above=pad[0],
                before=pad[1],
                height=size[0],
                down=stride[0],
                out=np.int64(plane(y, number).ctypes.data),
                P=y.H,
                Q=y.W,
            ),
        )
