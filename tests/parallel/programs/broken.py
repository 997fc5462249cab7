"""Run by mpiexec: train for two epochs, or break off after the first, or go on after that.

usage: broken.py OUT DATA OPTIONS whole | break | resume
"""

import json
import sys

from lowerconv.parallel.options import ParallelOptions
from lowerconv.train.progress import Reporter
from lowerconv.train.trainer import Trainer


class Broken(Exception):
    pass


class Break(Reporter):
    def start_epoch(self, epoch, epochs, images):
        if epoch == 2:
            raise Broken


out, data, options, what = sys.argv[1:]
trainer = Trainer(
    "lenet",
    data,
    out,
    parallel=ParallelOptions(**json.loads(options)),
    resume=what == "resume",
    reporter=Break() if what == "break" else Reporter(),
    epochs=2,
    batch=29,
    lr=0.01,
    ema=0.9,
)
try:
    trainer.fit()
except Broken:
    assert len(trainer.history) == 1
else:
    assert len(trainer.history) == 2
