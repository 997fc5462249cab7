"""``lowerconv ARGUMENTS`` on ranks of which the last is slow, but at work, before the border."""

import sys
import time
from functools import wraps

from lowerconv.cli.main import main
from lowerconv.machine.mpi import launched_rank, launched_ranks
from lowerconv.nn import Conv2d, MaxPool2d

SECONDS = 1.0  # of each of the four layers, in each direction


def slowly(compute):
    @wraps(compute)
    def wrapper(self, frame, step):
        if step.training:
            time.sleep(SECONDS)
        compute(self, frame, step)

    return wrapper


if launched_rank() == launched_ranks() - 1:
    for layer in (Conv2d, MaxPool2d):
        layer.compute = slowly(layer.compute)
sys.exit(main())
