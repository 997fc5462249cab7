"""What becomes of modules and parameters that are assigned, replaced, deleted or shared."""

import copy

import numpy as np
import pytest

from lowerconv import nn

X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


class Steps(nn.Module):
    """Applies those of its layers that are there."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        for layer in self.children().values():
            x = layer(x)
        return x


def names(network):
    return list(network.parameters())


# --- deleted and replaced ---


@pytest.mark.parametrize("way", ["del", "None"])
def test_what_is_deleted_is_gone(way):
    network = Steps()
    network(X)  # recorded with both
    if way == "del":
        del network.second
        assert not hasattr(network, "second")
    else:
        network.second = None
        assert network.second is None
    assert names(network) == ["first.weight", "first.bias"]
    assert list(network.children()) == ["first"]
    assert [name for name, _ in network.modules()] == ["", "first"]
    np.testing.assert_array_equal(network(X), network.first(X))


def test_what_is_replaced_counts_at_once():
    network = Steps()
    network(X)
    network.first = nn.Linear(6, 4)
    network.second = nn.Linear(4, 3)
    np.testing.assert_array_equal(network(X), network.second(network.first(X)))
    assert network(X).shape == (2, 3)
    network.forward = lambda x: network.first(x)
    np.testing.assert_array_equal(network(X), network.first(X))


def test_programs_of_others_stay():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    network(np.zeros((1, 2, 4, 4), np.float32))
    before = nn.Module._structures
    network.compile((1, 2, 4, 4))
    nn.Linear(3, 4).bias = None
    copy.copy(network[0]).weight = nn.Parameter(np.zeros((3, 2, 3, 3), np.float32))
    assert nn.Module._structures == before
    network[0].weight = nn.Parameter(np.zeros((3, 2, 3, 3), np.float32))
    assert nn.Module._structures != before


def test_a_parameter_is_replaced_by_another_or_by_none():
    layer = nn.Linear(6, 4)
    layer(X)
    weight = np.ones((5, 6), np.float32)
    layer.weight, layer.bias = nn.Parameter(weight), None
    assert names(layer) == ["weight"]
    np.testing.assert_allclose(layer(X), X @ weight.T, rtol=1e-5, atol=1e-5)
    layer.bias = nn.Parameter(np.full(5, 7, np.float32))
    assert names(layer) == ["weight", "bias"]
    np.testing.assert_allclose(layer(X), X @ weight.T + 7, rtol=1e-5, atol=1e-5)


def test_parameters_of_own_layers_are_found():
    class Scale(nn.Layer):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(np.ones(1, np.float32))

        def result_shape(self, *shapes):
            return shapes[0]

        def compute(self, frame, step):
            frame.y.array[...] = frame.x.array * self.scale.data

    network = nn.Sequential(nn.Linear(6, 6), Scale())
    assert names(network) == ["0.weight", "0.bias", "1.scale"]


@pytest.mark.parametrize("name", ["first", "weight"])
def test_nothing_else_takes_the_place(name):
    module = Steps() if name == "first" else nn.Linear(6, 4)
    before = getattr(module, name)
    with pytest.raises(TypeError, match=f"^{name}: got int, expected a (Module|Parameter) or None"):
        setattr(module, name, 5)
    assert getattr(module, name) is before
    assert len(names(module)) == (4 if name == "first" else 2)


# --- what would not be found ---

HIDDEN = {
    "list": lambda part: [part],
    "tuple": lambda part: (1, part),
    "dict": lambda part: {"left": part},
    "set": lambda part: {part},
    "nested": lambda part: [[("name", part)]],
}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize(
    "part", [nn.ReLU(), nn.Parameter(np.zeros(2))], ids=["module", "parameter"]
)
def test_containers_are_refused(kind, part):
    network = nn.Module()
    with pytest.raises(TypeError, match=r"^blocks: got a .* nn\.ModuleList"):
        network.blocks = HIDDEN[kind](part)
    assert not hasattr(network, "blocks")
    network.blocks = HIDDEN[kind](3)


def test_layers_that_a_network_does_not_have_are_refused():
    class Appended(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = []
            self.blocks.append(nn.Linear(6, 6))

        def forward(self, x):
            return nn.relu(self.blocks[0](x))

    with pytest.raises(ValueError, match=r"Appended\.forward: applies a Linear .* no part"):
        Appended()(X)


def test_a_module_list_is_found():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = x + block(x)
            return x

    tower = Tower()
    assert names(tower)[::2] == [f"blocks.{i}.weight" for i in range(3)]
    tower(X)
    tower.blocks.append(nn.Linear(6, 6))
    y = X
    for block in tower.blocks:
        y = y + block(y)
    np.testing.assert_allclose(tower(X), y, rtol=1e-4, atol=1e-4)
    assert len(tower.blocks) == 4
    delattr(tower.blocks, "1")
    tower.blocks.append(nn.ReLU())  # under a name that no other has
    assert list(tower.blocks.children()) == ["0", "2", "3", "4"]
    with pytest.raises(TypeError, match=r"^modules\[5\]: got 3"):
        tower.blocks.append(3)


def test_modules_in_a_row_are_replaced():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    network(X)
    network[-1] = nn.Linear(4, 10)
    assert network(X).shape == (2, 10)
    assert len(network) == 3
    last = network(X)
    setattr(network, "1", None)
    assert len(network) == 2
    setattr(network, "1", nn.ReLU())  # is not the last by that
    np.testing.assert_array_equal(network(X), last)
    assert names(network)[2:] == ["2.weight", "2.bias"]
    with pytest.raises(TypeError, match="does not support item assignment"):
        network.children()["0"] = nn.ReLU()


# --- names ---


def test_before_init():
    class Early(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"layer: set before super\(\)\.__init__\(\)"):
        Early()


def test_init_twice_leaves_nothing_half():
    network = Steps()
    nn.Module.__init__(network)
    assert not names(network)
    assert not hasattr(network, "first")


@pytest.mark.parametrize(
    "name", ["forward", "_children", "parameters", "register_watch", "run", "children"]
)
def test_names_that_modules_use(name):
    network = Steps()
    with pytest.raises(AttributeError, match=f"^{name}: got a ReLU, expected another name"):
        setattr(network, name, nn.ReLU())
    assert network(X).shape == (2, 6)


@pytest.mark.parametrize("name", ["a.b", ""])
def test_names_with_dots(name):
    network = Steps()
    for part in (nn.ReLU(), nn.Parameter(np.zeros(2))):
        with pytest.raises(ValueError, match="a name with a dot"):
            setattr(network, name, part)
    assert list(network.children()) == ["first", "second"]


def test_cycles():
    outer, inner = nn.Sequential(), nn.Sequential()
    outer.inner = inner
    with pytest.raises(ValueError, match="outer: got a Sequential that contains this one"):
        inner.outer = outer
    with pytest.raises(ValueError, match="own: got a Sequential that contains this one"):
        outer.own = outer
    assert [name for name, _ in outer.modules()] == ["", "inner"]


# --- shared ---


class Shared(nn.Module):
    """One layer under two names, applied once."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 4))
        self.again = self.encoder
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.again(x))


def test_a_module_in_two_places_counts_once():
    network = Shared()
    assert names(network) == ["encoder.0.weight", "encoder.0.bias", "head.weight", "head.bias"]
    optimizer = nn.SGD(network, 0.1)
    assert optimizer.data.size == 6 * 4 + 4 + 4 * 2 + 2
    weight = network.encoder[0].weight
    before = weight.data.copy()
    network.run(X, nn.Step(training=True))
    network.backward(np.ones((2, 2), np.float32))
    optimizer.step()
    np.testing.assert_allclose(weight.data, before - np.float32(0.1) * weight.grad, rtol=1e-6)
    other = copy.deepcopy(network)
    assert other.again is other.encoder
    assert network.encoder is not other.encoder
    del network.encoder
    assert names(network)[0] == "again.0.weight"


def test_applied_twice_is_refused_even_through_another_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    tied = Tied()
    assert names(tied) == ["first.weight", "first.bias", "second.bias"]
    with pytest.raises(ValueError, match="second Linear: has its 'weight' in common with first"):
        tied.run(X, nn.Step(training=True))


def test_a_shallow_copy_has_children_of_its_own():
    network = Steps()
    other = copy.copy(network)
    other.second = nn.ReLU()
    assert names(network)[2:] == ["second.weight", "second.bias"]
    assert names(other) == ["first.weight", "first.bias"]
    assert other.first is network.first


def test_copies_are_not_watched():
    network, seen = nn.Sequential(nn.Linear(6, 4)), []
    network.register_watch(lambda layer, frame, phase: seen.append(frame))
    network(X)
    copy.deepcopy(network)(X)
    assert len(seen) == 1
    network(X)
    assert len(seen) == 2
