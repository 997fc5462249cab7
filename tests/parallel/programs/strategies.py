"""Run by mpiexec: ranks train together what one process trains alone.

usage: strategies.py RANKS SEED CASE...

A case is JSON: {"network": a name of `networks`, "options": of `ParallelOptions`, "batches":
samples of each step, "sync": whether batch norm is synchronized, "accumulate": batches of an
update, "save": file for all arrays at the end, "take": file to begin with, "steps": steps made
before}.  Every rank compares with a process alone.
"""

import json
import sys
import traceback
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))

from lowerconv import nn, set_num_threads
from lowerconv.data.order import share
from lowerconv.nn.loss import network_loss
from lowerconv.nn.step import INFERENCE
from lowerconv.parallel import world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.sharding.cut import cut_network, default_border
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.parallel.strategies.strategy import Work
from tests.parallel.networks import make

ranks, seed = int(sys.argv[1]), int(sys.argv[2])
c = world()
assert c.ranks == ranks
set_num_threads(1)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
LR, MOMENTUM, DECAY = 0.05, 0.9, 1e-2


def prepare(case, weights_seed):
    network = make(case["network"], weights_seed)
    for _, module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.synchronized = case.get("sync", False)
    return network


def optimizer_of(case):
    if case.get("optimizer") == "adam":
        return lambda module: nn.Adam(module, LR, weight_decay=DECAY, decoupled=True)
    return lambda module: nn.SGD(module, LR, MOMENTUM, DECAY)


def batches_of(case):
    """Yield images, labels and what else is known of each batch."""
    rng = np.random.default_rng(seed)
    accumulate, steps = case.get("accumulate", 1), case.get("steps", 0)
    sizes = case["batches"]
    probe = make(case["network"])
    classes = probe.run(np.zeros((1, *probe.image_shape))).shape[1]
    for number, size in enumerate(sizes):
        images = rng.standard_normal((size, *probe.image_shape))
        labels = rng.integers(0, classes, size)
        update, part = divmod(number, accumulate)
        of_update = sizes[update * accumulate : (update + 1) * accumulate]
        place, last = sum(of_update[:part]), part + 1 == len(of_update)
        lr = LR / (1 + 0.2 * update)
        if number >= steps:
            yield images, labels, update, place, sum(of_update), part == 0, last, lr


def alone(case):
    """Return losses, arrays and scores of a process alone."""
    network = prepare(case, 5)
    options = case["options"]
    updates = options.get("owt_updates", 1)
    if updates > 1:
        return alone_with_updates(case, network, updates)
    optimizer = optimizer_of(case)(network)
    losses = []
    held = np.zeros_like(optimizer.grad)
    for images, labels, update, place, size, first, last, lr in batches_of(case | {"steps": 0}):
        results = network.run(images, nn.Step(True, 3, update, place))
        loss, gradients = network_loss(results, labels, size, 0.1)
        losses.append((loss.loss, loss.correct))
        network.backward(*gradients)
        held = optimizer.grad + (0 if first else held)
        if last:
            optimizer.grad[:] = held
            optimizer.lr = lr
            optimizer.step()
    return losses, arrays_of(network, [optimizer]), network


def alone_with_updates(case, network, updates):
    """The same with several updates of what is after the border, step by step as they are told."""
    options = case["options"]
    border = options.get("owt_border") or default_border(network, network.image_shape)
    front, back = cut_network(network, border, network.image_shape)
    optimizers = [optimizer_of(case)(part) for part in (front, back)]
    pieces = options.get("owt_chunks", ranks)
    losses = []
    for images, labels, update, _, size, _, _, lr in batches_of(case | {"steps": 0}):
        v = front.run(images, nn.Step(True, 3, update)).copy()
        dv = np.empty_like(v)
        total, right = 0.0, 0
        shares = [share(size, r, ranks) for r in range(ranks)]
        for group in range(updates):
            chosen = [
                mine.start + i
                for piece in range(pieces)
                if piece * updates // pieces == group
                for mine in shares
                for i in share(len(mine), piece, pieces)
            ]
            if not chosen:
                continue
            step = nn.Step(True, 3, update, input_grad=True, runs=tuple((i, 1) for i in chosen))
            loss, gradients = network_loss(back.run(v[chosen], step), labels[chosen], None, 0.1)
            total, right = total + loss.loss, right + loss.correct
            part = len(chosen) / size
            dv[chosen] = back.backward(*gradients) * part
            optimizers[1].lr = lr * part
            optimizers[1].step()
        losses.append((total, right))
        front.backward(dv)
        optimizers[0].lr = lr
        optimizers[0].step()
    return losses, arrays_of(network, optimizers), network


def arrays_of(network, optimizers):
    found = {name: p.data for name, p in network.parameters().items()} | network.buffers()
    for optimizer in optimizers:
        for key, flat in optimizer.state().items():
            found |= {f"{key}/{n}": a for n, a in optimizer.by_name(flat).items()}
    return found


def check(case):
    losses, expected, network = alone(case)
    given = prepare(case, 6 if "take" in case else 5)
    options = ParallelOptions(**case["options"])
    kind = STRATEGIES[options.strategy]
    strategy = kind(given, optimizer_of(case), c, options, network.image_shape)

    def arrays():
        learnt = {n: p.data for n, p in strategy.network.parameters().items()}
        return learnt | strategy.network.buffers() | strategy.arrays()

    if "take" in case:
        stored = dict(np.load(case["take"])) if c.rank == 0 else None
        strategy.optimizer.updates = case["steps"]
        strategy.scatter_whole(arrays(), stored)
    strategy.start()
    got = []
    for images, labels, update, place, size, first, last, lr in batches_of(case):
        mine = share(len(images), *strategy.loader_share)
        step = nn.Step(True, 3, update, place + mine.start, communicator=c)
        work = Work(
            images[mine.start : mine.stop],
            labels[mine.start : mine.stop],
            len(images),
            size,
            step,
            lr,
            first,
            last,
            0.1,
        )
        result = strategy.train(work)
        got.append(
            c.sum_numbers(result.loss / strategy.loss_copies, result.correct / strategy.loss_copies)
        )
    strategy.finish()
    np.testing.assert_allclose(got, losses[case.get("steps", 0) :], **CLOSE)
    whole = strategy.gather_whole(arrays())
    assert whole.keys() == expected.keys()
    shapes = strategy.shapes(arrays())
    differing = strategy.differing_buffers()
    for name, array in expected.items():
        assert shapes[name] == (array.shape, array.dtype)
        if name not in differing or case.get("sync"):
            np.testing.assert_allclose(whole[name], array, **CLOSE, err_msg=name)
    alike = [zlib.crc32(array.tobytes()) for array in strategy.replicated().values()]
    assert len(set(map(tuple, c.gather(alike)))) == 1, "weights differ between ranks"
    rng = np.random.default_rng(1)
    for count in (2 * ranks + 1, 1, 0):
        images = rng.standard_normal((count, *network.image_shape))
        mine = share(count, *strategy.loader_share)
        scores = strategy.infer(images[mine.start : mine.stop])
        right = network.run(images, INFERENCE)[mine.start : mine.stop]
        np.testing.assert_allclose(scores, right, **CLOSE)
    strategy.write_back()
    for name, parameter in given.parameters().items():
        np.testing.assert_allclose(parameter.data, expected[name], **CLOSE, err_msg=name)
    if "save" in case and c.rank == 0:
        np.savez(case["save"], **whole)
    strategy.close()


for text in sys.argv[3:]:
    case = json.loads(text)
    try:
        check(case)
    except Exception:  # the others would wait for this rank
        print(f"rank {c.rank}, seed {seed}: {text}", file=sys.stderr)
        traceback.print_exc()
        c.abort()
print("right")
