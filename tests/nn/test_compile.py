"""Compiled networks keep the parameters that they were compiled with, whatever becomes of those."""

import gc
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.module import Parameter
from tests.nn.servers import STEP, Branches, at_once

SHAPE = (2, 8, 12, 12)


class Scale(nn.Layer):
    """A layer of somebody's own: parameters, an array, a number, a layer inside."""

    def __init__(self):
        super().__init__()
        self.part0 = Parameter(np.full(8, 2, np.float32))
        self.part1 = Parameter(np.ones(8, np.float32))
        self.shift, self.power = np.full(8, 3, np.float32), 1.0
        self.inner = nn.Linear(8, 8)

    def result_shape(self, *shapes):
        return shapes[0]

    def compute(self, frame, step):
        scale = (self.part0.data * self.part1.data) ** self.power
        mean = frame.x.array.mean((2, 3)) @ self.inner.weight.data
        frame.y.array[...] = frame.x.array * scale[:, None, None] + mean[:, :, None, None]
        frame.y.array[...] += self.shift[:, None, None]


def conv(algorithm="auto", **options) -> nn.Conv2d:
    options = {"padding": 1} | options
    return nn.Conv2d(8, 8, options.pop("size", 3), algorithm=algorithm, **options)


NETWORKS = {
    "3x3": lambda: nn.Sequential(conv()),
    "1x1 in place": lambda: nn.Sequential(conv(size=1, padding=0)),
    "no bias": lambda: nn.Sequential(conv(bias=False)),
    "depthwise": lambda: nn.Sequential(conv(groups=8)),
    "normalised": lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()),
    "norm alone": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(8 * 144, 3)),
    "own": lambda: nn.Sequential(Scale()),
    "branches": lambda: nn.Sequential(conv(), nn.Conv2d(8, 2, 7), Branches()),
} | {
    name: lambda name=name: nn.Sequential(conv(name))
    for name in ("direct", "lowering", "pipelined", "paired", "fused", "winograd")
}


def in_place(network):
    for parameter in network.parameters().values():
        parameter.data += 1
    for buffer in network.buffers().values():
        buffer += 1
    for _, module in network.modules():
        if isinstance(module, Scale):
            module.shift += 1
            module.inner.weight.data += 1


def replaced(network):
    for _, module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Parameter):
                setattr(module, name, Parameter(value.data + 1))
        if isinstance(module, Scale):
            module.part0 = Parameter(np.zeros(8, np.float32))


def data_replaced(network):
    for parameter in network.parameters().values():
        parameter.data = parameter.data + 1


def settings(network):
    for _, module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 10.0
        if isinstance(module, Scale):
            module.power = 2.0


def trained(network):
    optimizer = nn.Adam(network, 0.1)
    for _ in range(2):
        optimizer.grad[:] = 1
        optimizer.step()


CHANGES = {
    "in place": in_place,
    "parameters replaced": replaced,
    "arrays replaced": data_replaced,
    "settings": settings,
    "trained": trained,
    "initialized": lambda network: network.initialize(np.random.default_rng(5)),
    "loaded": lambda network: network.load(
        {
            name: array + 1
            for name, array in (
                {n: p.data for n, p in network.parameters().items()} | network.buffers()
            ).items()
        }
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_that_becomes_of_the_parameters_is_seen(name):
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    for how, change in CHANGES.items():
        network = NETWORKS[name]()
        infer = network.compile(SHAPE)
        before = infer(x).copy()
        np.testing.assert_allclose(before, network(x), rtol=1e-3, atol=1e-3)
        change(network)
        np.testing.assert_array_equal(infer(x), before, err_msg=how)
        # And the network itself goes by what is there now, as does a function compiled now.
        now = network.compile(SHAPE)(x)
        np.testing.assert_allclose(network(x), now, rtol=1e-3, atol=1e-3, err_msg=how)


def test_what_was_changed_before_the_first_call_is_not_seen_either():
    x = np.ones(SHAPE, np.float32)
    network = NETWORKS["normalised"]()
    first, second = network.compile(SHAPE), network.compile(SHAPE)
    before = first(x).copy()
    in_place(network)
    assert np.array_equal(second(x), before)


def test_training_goes_on_beside_a_compiled_network():
    network = NETWORKS["normalised"]()
    optimizer = nn.SGD(network, 0.1)
    x = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
    infer = network.compile(SHAPE)
    before = infer(x).copy()
    for _ in range(3):
        network.backward(network.run(x, STEP))
        optimizer.step()
        assert np.array_equal(infer(x), before)
    assert not np.allclose(network(x), before)


def test_all_layers_are_of_the_same_update():
    """Compiled while a thread trains: of each update all parameters are seen, or none."""
    network = nn.Sequential(*(nn.Linear(1, 1, dtype=np.float64) for _ in range(3)))
    for parameter in network.parameters().values():
        parameter.data[...] = 0
    optimizer, wrong, done = nn.SGD(network, 1.0), [], []
    optimizer.grad[:] = -1  # all parameters are the number of updates
    x, before = np.ones((1, 1)), sys.getswitchinterval()

    def train():
        while not done:
            optimizer.step()

    def compile_often():
        try:
            for _ in range(300):
                y = int(network.compile((1, 1))(x)[0, 0])
                n = round((y / 2) ** (1 / 3))
                if y not in [2 * k**3 + k * k + k for k in range(n - 2, n + 3)]:
                    wrong.append(y)
        finally:
            done.append(True)

    sys.setswitchinterval(1e-6)
    try:
        assert not at_once([train, compile_often])
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_updates_that_are_late_are_made_before():
    network = nn.Sequential(nn.Linear(2, 2))
    handle = network.register_gate(lambda layer: layer.weight.data.fill(7))
    infer = network.compile((1, 2))
    handle.remove()
    network.load({name: p.data * 0 for name, p in network.parameters().items()})
    assert (infer(np.ones((1, 2), np.float32)) == 14).all()


def test_the_network_may_go():
    network = NETWORKS["branches"]()
    infer = network.compile(SHAPE)
    gone = [weakref.ref(module) for _, module in network.modules()]
    gone += [weakref.ref(parameter) for parameter in network.parameters().values()]
    del network
    gc.collect()
    assert not any(ref() is not None for ref in gone)
    assert np.isfinite(infer(np.ones(SHAPE, np.float32))).all()


@pytest.mark.parametrize("algorithm", ["fused", "winograd"])
def test_filters_are_kept_packed_and_not_twice(algorithm):
    network = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1, algorithm=algorithm))
    weights = network.parameters()["0.weight"].data.nbytes
    shape = (1, 256, 28, 28)
    network.compile(shape)  # whatever comes with the first one
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    infer = network.compile(shape)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    packed = weights if algorithm == "fused" else weights * 36 // 9
    print(f"{after - before:,} bytes, filters of {weights:,}")
    assert after - before < 1.1 * packed + 2**19
    assert infer(np.ones(shape, np.float32)).shape == shape


def test_read_only_views_of_what_changes_are_copied():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    arrays = {}
    for name, parameter in net.parameters().items():
        arrays[name] = parameter.data
        parameter.data = parameter.data.view()
        parameter.data.flags.writeable = False
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    compiled = net.compile(x.shape)
    before = compiled(x)
    for array in arrays.values():
        array += 1
    assert np.array_equal(compiled(x), before)
    assert not np.allclose(net(x), before)
