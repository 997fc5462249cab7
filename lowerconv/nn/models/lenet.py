"""LeNet."""

from __future__ import annotations

from lowerconv.nn.activation import ReLU
from lowerconv.nn.conv import Conv2d
from lowerconv.nn.combine import Flatten
from lowerconv.nn.linear import Linear
from lowerconv.nn.module import Sequential
from lowerconv.nn.pooling import MaxPool2d


def lenet(
    image_shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, algorithm: str = "auto"
) -> Sequential:
    """Return LeNet in the sizes of Caffe's examples, with max pooling and ReLU.

    LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition"
    (1998); 431,080 parameters on 28x28 pixels.
    """
    C, H, W = image_shape
    rows, columns = ((extent - 4) // 2 for extent in (H, W))
    rows, columns = ((extent - 4) // 2 for extent in (rows, columns))
    return Sequential(
        Conv2d(C, 20, 5, algorithm=algorithm),
        MaxPool2d(2),
        ReLU(),
        Conv2d(20, 50, 5, algorithm=algorithm),
        MaxPool2d(2),
        ReLU(),
        Flatten(),
        Linear(50 * rows * columns, 500),
        ReLU(),
        Linear(500, classes),
    )
