"""Optimizers and their networks: copied together they train, apart they say so; nothing else."""

import copy
import gc
import pickle

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.train.ema import WeightAverage

X = np.random.default_rng(0).standard_normal((4, 2, 6, 6)).astype(np.float32)
DY = np.random.default_rng(1).standard_normal((4, 3)).astype(np.float32)
KINDS = {
    "sgd": lambda network: nn.SGD(network, 0.01, 0.9),
    "adam": lambda network: nn.Adam(network, 0.01),
    "lars": lambda network: nn.LARS(network, 0.01),
}


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))


def train(net: nn.Module, optimizer: nn.Optimizer) -> None:
    net.run(X, nn.Step(training=True))
    net.backward(DY)
    optimizer.step()


def weights(net: nn.Module) -> np.ndarray:
    return np.concatenate([p.data.reshape(-1) for p in net.parameters().values()])


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("order", "way"),
    [
        ("network first", copy.deepcopy),
        ("optimizer first", pickled),
        *[
            pytest.param(order, way, marks=pytest.mark.long)
            for order, way in (
                ("network first", pickled),
                ("optimizer first", copy.deepcopy),
                ("deep inside", copy.deepcopy),
                ("deep inside", pickled),
            )
        ],
    ],
)
def test_copied_together_both_train_alike(kind, order, way):
    net = network()
    optimizer = KINDS[kind](net)
    train(net, optimizer)
    if order == "network first":
        net2, optimizer2 = way((net, optimizer))
    elif order == "optimizer first":
        optimizer2, net2 = way((optimizer, net))
    else:
        run = way({"optimizer": optimizer, "run": [net]})
        net2, optimizer2 = run["run"][0], run["optimizer"]
    before = weights(net2)
    np.testing.assert_array_equal(before, weights(net))
    for _ in range(3):
        train(net, optimizer)
        train(net2, optimizer2)
    assert (weights(net2) != before).any()
    np.testing.assert_array_equal(weights(net2), weights(net))
    np.testing.assert_array_equal(weights(net2), optimizer2.data)
    assert not np.shares_memory(optimizer.data, optimizer2.data)
    assert optimizer2.updates == optimizer.updates == 4


@pytest.mark.parametrize("kind", KINDS)
def test_copied_alone_it_refuses_the_next_step(kind):
    net = network()
    optimizer = KINDS[kind](net)
    alone = (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)))
    apart = pickle.loads(pickle.dumps(net)), pickle.loads(pickle.dumps(optimizer))
    for other in (*alone, apart[1]):
        with pytest.raises(RuntimeError, match=r"copy\.deepcopy\(\(network, optimizer\)\)"):
            other.step()
        with pytest.raises(RuntimeError, match="copied and pickled together"):
            copy.deepcopy(other)
        assert other.updates == 0
    with pytest.raises(TypeError, match="shallow copy"):
        copy.copy(optimizer)
    train(net, optimizer)  # whose copies have changed nothing


def test_copied_alone_with_a_network_that_refers_to_itself():
    net = network()
    net[0].parent = Hidden(net)
    gc.disable()
    try:
        for other in (copy.deepcopy(nn.SGD(net, 0.1)), copy.deepcopy(WeightAverage(net, 0.5))):
            with pytest.raises(RuntimeError, match="a copy whose network"):
                other.step() if isinstance(other, nn.SGD) else other.update(2)
    finally:
        gc.enable()


class Hidden:
    """Refers to a network, which is no part of what has this."""

    def __init__(self, network):
        self.network = network


def test_a_copied_network_needs_another_optimizer():
    net = network()
    optimizer = nn.SGD(net, 0.1)
    other = copy.deepcopy(net)
    before = weights(other)
    train(net, optimizer)
    np.testing.assert_array_equal(weights(other), before)
    train(other, nn.SGD(other, 0.1))
    np.testing.assert_array_equal(weights(other), weights(net))


def replace(**changes):
    """Return what sets attributes of the first layer's weight."""

    def change(net):
        for name, make in changes.items():
            weight = net[0].weight
            setattr(weight, name, make(getattr(weight, name)))

    return change


def delete(net):
    delattr(net, "3")


def head(net):
    net[3] = nn.Linear(48, 3)


def parameter(net):
    net[0].weight = nn.Parameter(net[0].weight.data)


def more(net):
    net.append(nn.Linear(3, 3))


CHANGES = {
    "data": (replace(data=np.copy), "data of parameter '0.weight'"),
    "dtype": (replace(data=np.float64), "data of parameter '0.weight'"),
    "half of it": (replace(data=lambda data: data[:1]), "data of parameter '0.weight'"),
    "gradient": (replace(grad=np.copy), "grad of parameter '0.weight'"),
    "no gradient": (replace(grad=lambda grad: None), "grad of parameter '0.weight'"),
    "another optimizer": (lambda net: nn.SGD(net, 0.1), "another optimizer was made"),
    "one of a part": (lambda net: nn.SGD(net[3], 0.1), "data of parameter '3.weight'"),
    "one of another network": (lambda net: nn.SGD(nn.Sequential(net[0]), 0.1), "'0.weight'"),
    "deleted layer": (delete, "parameter '3.weight' of its network was added, removed or replaced"),
    "other layer": (head, "parameter '3.weight' of its network was added, removed or replaced"),
    "other parameter": (parameter, "parameter '0.weight' of its network was added, removed"),
    "one layer more": (more, "parameter '4.weight' of its network was added"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_network_that_has_changed_is_refused(name):
    change, message = CHANGES[name]
    net = network()
    optimizer = nn.SGD(net, 0.1)
    train(net, optimizer)
    change(net)
    before, data = weights(net), optimizer.data.copy()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"optimizer: .*{message}"):
            optimizer.step()
    np.testing.assert_array_equal(weights(net), before)
    np.testing.assert_array_equal(optimizer.data, data)
    assert optimizer.updates == 1
    if name == "dtype":
        return
    optimizer = nn.SGD(net, 0.1)  # as the message says
    optimizer.grad[:] = 1
    optimizer.step()
    np.testing.assert_allclose(weights(net), before - 0.1, rtol=1e-5, atol=1e-6)


def test_arrays_of_the_optimizer_that_are_replaced():
    net = network()
    optimizer = nn.SGD(net, 0.1)
    optimizer.grad += 1
    optimizer.step()
    optimizer.grad = optimizer.grad * 2
    with pytest.raises(RuntimeError, match="not the array that it was made with"):
        optimizer.step()


def test_what_changes_nothing_is_not_refused():
    net = network()
    optimizer = nn.SGD(net, 0.1)
    weight = net[0].weight
    weight.data = weight.data[:]  # the same memory
    weight.data -= 1
    nn.Linear(3, 3)  # others have parameters, too
    train(net, optimizer)
    net.load({name: p.data.copy() for name, p in net.parameters().items()} | net.buffers())
    train(net, optimizer)


def test_optimizers_of_different_parts():
    """Each has its own; what put the parts together need not be kept."""
    net = network()
    optimizers = [nn.SGD(nn.Sequential(net[0], net[1]), 0.01), nn.SGD(net[3], 0.01)]
    other, others = copy.deepcopy((net, optimizers))
    whole = copy.deepcopy(net)
    train(whole, nn.SGD(whole, 0.01))
    for part, steps in ((net, optimizers), (other, others)):
        part.run(X, nn.Step(training=True))
        part.backward(DY)
        for optimizer in steps:
            optimizer.step()
        np.testing.assert_array_equal(weights(part), weights(whole))


BAD = {
    "without parameters": (lambda: nn.Sequential(nn.ReLU()), "network: got one without parameters"),
    "two dtypes": (
        lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=np.float64)),
        "network: parameter '1.weight' is float64 and '0.weight' is float32",
    ),
    "shared memory": (lambda: overlapping(), "network: parameters '0.weight' and '1.weight' share"),
}


def overlapping() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight.data = net[0].weight.data
    return net


@pytest.mark.parametrize("name", BAD)
def test_networks_that_cannot_be_one_array(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        nn.SGD(make(), 0.1)


def test_averages():
    net = network()
    average = WeightAverage(net, 0.5)
    net2, average2 = copy.deepcopy((net, average))
    net2[0].weight.data[...] = 3
    average2.update(1)
    assert (average2.values["0.weight"] == 3).all()
    assert (average.values["0.weight"] != 3).any()
    for other in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        with pytest.raises(RuntimeError, match=r"copy\.deepcopy\(\(network, average\)\)"):
            other.update(1)
    with pytest.raises(TypeError, match="shallow copy"):
        copy.copy(average)
    delete(net)
    for use in (lambda: average.update(2), lambda: average.in_place(lambda: None)):
        with pytest.raises(RuntimeError, match=r"'3\.weight' of its network was added, removed"):
            use()
