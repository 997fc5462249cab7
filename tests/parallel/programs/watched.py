"""Run by mpiexec: with each strategy, all who watch a network do so at the same time.

usage: watched.py DATA DIRECTORY
"""

import sys
import traceback
from pathlib import Path

from lowerconv import set_num_threads
from lowerconv.nn.divergence import DivergenceError
from lowerconv.parallel import world
from lowerconv.parallel.options import STRATEGIES, ParallelOptions
from lowerconv.parallel.trace.chrome import read
from lowerconv.train import Trainer
from lowerconv.train.progress import Reporter

data, directory = sys.argv[1], Path(sys.argv[2])
c = world()
set_num_threads(1)
LAYERS = {f"{name} {phase}" for name in ["0", "2", "5", "7"] for phase in ("forward", "backward")}


def trainer(out, options, **settings):
    quiet = {"communicator": c, "reporter": Reporter()}
    return Trainer("lenet", data, out, parallel=options, epochs=1, batch=32, **quiet, **settings)


def check(strategy, overlap):
    out, trace = (directory / f"{strategy}-{overlap}{end}" for end in ("", ".json"))
    more = {"strategy": strategy, "overlap": overlap, "stall_timeout": 60.0}
    options = ParallelOptions(timeline=str(trace), timeline_first=1, timeline_count=4, **more)
    run = trainer(out, options)
    heard = set()
    for module in run.strategy.running:
        module.register_watch(lambda *_: heard.add(c.status.doing))
    run.fit()
    # What has been noted is heard at the next layer, of which there is none after the first's.
    missing = {f"computing, after {layer}" for layer in LAYERS - {"0 backward"}} - heard
    assert not missing, f"not noted, as if this rank had stalled: {missing}"
    left = [list(module._watches) for module in run.strategy.running]
    assert all(len(watches) == 1 for watches in left), left  # that of this test
    if c.rank == 0:
        recorded = {f"{e.name.split(' ')[0]} {e.kind}" for e in read(trace).ranks[-1].events}
        assert recorded >= LAYERS, recorded
    if c.ranks > 1:  # the others might not diverge
        return
    # In the middle of the steps that are recorded the loss is lost.
    try:
        trainer(Path(f"{out}-lost"), options, lr=1e20).fit()
    except DivergenceError as error:
        assert "is the first whose output holds" in str(error) or "' holds " in str(error), error
    else:
        raise AssertionError("no DivergenceError")


for strategy in STRATEGIES:
    for overlap in ("layers", "thread"):
        try:
            check(strategy, overlap)
        except Exception:  # the others would wait for this rank
            print(f"rank {c.rank}: {strategy}, overlap {overlap}", file=sys.stderr)
            traceback.print_exc()
            c.abort()
            sys.exit(1)
print("right")
