"""Run by mpiexec: a network is trained a few steps with clocks that are wrong, and traced.

usage: traced.py FILE THREADED
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np

real = time.monotonic_ns
skew = 0
time.monotonic_ns = lambda: real() + skew  # before anybody takes the function

from lowerconv import nn  # noqa: E402
from lowerconv.nn.module import Step  # noqa: E402
from lowerconv.parallel import world  # noqa: E402
from lowerconv.parallel.comm.collectives import ring  # noqa: E402
from lowerconv.parallel.trace.chrome import write  # noqa: E402
from lowerconv.parallel.trace.timeline import Timeline  # noqa: E402
from tests.parallel.traces import over  # noqa: E402

c = world()
skew = (c.rank - 1) * 5_000_000_000
timeline = Timeline(2, 3)
engine = c.engine(threaded=sys.argv[2] == "threaded", listener=timeline)
network = nn.Sequential(nn.Conv2d(1, 6, 3, algorithm="fused"), nn.Flatten(), nn.Linear(216, 10))
optimizer = nn.SGD(network, lr=0.01)
rng = np.random.default_rng(c.rank)
n = 3 + c.rank
batch = SimpleNamespace(
    images=rng.standard_normal((n, 1, 8, 8), np.float32), labels=rng.integers(10, size=n)
)
tasks = []


def after(layer, frame, phase):
    engine.progress()
    if phase == "backward":
        for name, p in layer.own_parameters().items():
            gradient = p.grad.reshape(-1)
            label = f"{frame.name} {name}"
            tasks.append(
                engine.submit(lambda link, g=gradient: ring(link, g), label, gradient.nbytes)
            )


network.register_watch(after)
timeline.attach(network)
timeline.start(engine.comm)
for _ in over(timeline, [batch] * 7):
    scores = network.run(batch.images, Step(training=True))
    with timeline.doing("loss"):
        loss = nn.softmax_cross_entropy(scores, batch.labels)
    network.backward(loss.gradient)
    for task in tasks:
        engine.wait(task)
    tasks.clear()
    with timeline.doing("update"):
        optimizer.step()
engine.close()
trace = timeline.finish(c, engine.comm, "three layers")
assert (trace is None) == (c.rank > 0)
if trace is not None:
    write(trace, Path(sys.argv[1]))
