"""Run by mpiexec: print what is wrong with LARS where ranks have parts of parameters.

usage: lars.py STRATEGY
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from lowerconv import nn
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from tests.parallel.networks import make

network = make("Plain")
try:
    STRATEGIES[sys.argv[1]](
        network,
        lambda module: nn.LARS(module, 0.1),
        world(),
        ParallelOptions(sys.argv[1]),
        network.image_shape,
    )
except ValueError as error:
    print(error, flush=True)
