"""Graphs, what is made one pass in them, and the memory that their arrays share."""

import copy
import pickle

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn import memory, planning, recording
from tests.nn.graphs import RandomNetwork


def step_of(network: nn.Module, x: np.ndarray, dys: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return copies of all that a training step computes."""
    step = nn.Step(training=True, seed=1, number=2, input_grad=True)
    made = network.run(x, step)
    results = made if isinstance(made, tuple) else (made,)
    found = {f"result {i}": result.copy() for i, result in enumerate(results)}
    dx = network.backward(*dys[: len(results)])
    assert dx is not None
    found["dx"] = dx.copy()
    found |= {name: parameter.grad.copy() for name, parameter in network.parameters().items()}
    return found


def apart(blocks):
    """Give every block memory of its own."""
    total = 0
    for block in blocks:
        block.nbytes = -(-block.nbytes // 64) * 64
        block.offset, total = total, total + block.nbytes
    return total


@pytest.mark.parametrize("seed", range(60))
def test_sharing_memory_and_passes_changes_nothing(seed, monkeypatch):
    network = RandomNetwork(seed, nodes=12)
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((3, 3, 5, 6))
    made = copy.deepcopy(network).run(x, nn.Step(training=True))
    shapes = [result.shape for result in (made if isinstance(made, tuple) else (made,))]
    dys = [rng.standard_normal(shape) for shape in shapes]
    buffers = [b.copy() for b in network.buffers().values()]

    def again() -> dict[str, np.ndarray]:
        for buffer, value in zip(network.buffers().values(), buffers, strict=True):
            buffer[...] = value
        return step_of(copy.deepcopy(network), x, dys)

    found = again()
    monkeypatch.setattr(planning, "lay_out", apart)
    separate = again()
    for name, array in separate.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    monkeypatch.setattr(recording, "fuse", lambda graph, training: None)
    monkeypatch.setattr(planning.MemoryPlan, "_slices", lambda self, node: [])
    monkeypatch.setattr(planning.MemoryPlan, "_inherited", lambda self, node: None)
    plain = again()
    for name, array in plain.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(20))
def test_inference_compiled_or_not_agrees_with_the_plain_graph(seed, monkeypatch):
    network = RandomNetwork(100 + seed, nodes=12)
    rng = np.random.default_rng(seed)
    for parameter in network.parameters().values():
        parameter.data[...] = rng.standard_normal(parameter.data.shape)
    for buffer in network.buffers().values():
        buffer[...] = rng.uniform(0.5, 2, buffer.shape)
    x = rng.standard_normal((2, 3, 5, 6))
    found, compiled = network(x), network.compile(x.shape)(x).copy()
    monkeypatch.setattr(recording, "fuse", lambda graph, training: None)
    monkeypatch.setattr(planning, "lay_out", apart)
    plain = copy.deepcopy(network)(x)
    np.testing.assert_allclose(found, plain, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(compiled, plain, rtol=1e-9, atol=1e-9)


def test_blocks_that_live_together_do_not_overlap():
    rng = np.random.default_rng(7)
    for _ in range(50):
        blocks = []
        for _ in range(int(rng.integers(1, 40))):
            first = int(rng.integers(0, 20))
            last = first + int(rng.integers(0, 20))
            blocks.append(memory.Block(int(rng.integers(1, 5000)), first, last, "saved"))
        total = memory.lay_out(blocks)
        at_once = max(sum(b.nbytes for b in blocks if b.first <= t <= b.last) for t in range(40))
        assert at_once <= total <= sum(b.nbytes for b in blocks)
        for i, a in enumerate(blocks):
            assert a.offset % 64 == 0
            assert a.offset + a.nbytes <= total
            for b in blocks[:i]:
                together = a.first <= b.last and b.first <= a.last
                below = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
                assert below or not together


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce = nn.Conv2d(8, 4, 1)
        self.left = nn.Conv2d(8, 3, 1)
        self.right = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x):
        right = nn.relu(self.right(nn.relu(self.reduce(x))))
        return nn.concat(nn.relu(self.left(x)), right)


def test_branches_write_into_their_part_of_a_concatenation():
    block = Inception()
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    block.run(x, nn.Step(training=True))
    frames = {frame.name: frame for _, frame in block._use.own.execution.current.steps}
    assert set(frames) == {"left Conv2d", "reduce Conv2d", "right Conv2d", "Concat"}
    whole = frames["Concat"].y.array
    np.testing.assert_array_equal(whole[:, :3], frames["left Conv2d"].y.array)
    assert np.shares_memory(whole, frames["right Conv2d"].y.array)
    assert all(frames["Concat"].views)
    assert all(frames["Concat"].views_gradient)


def test_results_stay_valid_and_steps_of_other_shapes_come_between():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2))
    rng = np.random.default_rng(0)
    small, large = (rng.standard_normal((n, 2, 6, 6)).astype(np.float32) for n in (1, 9))
    first = network(small)
    step = nn.Step(training=True)
    for x in (small, large, small):
        scores = network.run(x, step)
        network.backward(np.ones_like(scores))
    np.testing.assert_array_equal(network(small), first)


def test_backward_needs_its_own_run():
    network = nn.Sequential(nn.Conv2d(2, 3, 3))
    x = np.ones((1, 2, 4, 4), np.float32)
    dy = np.ones((1, 3, 2, 2), np.float32)
    with pytest.raises(RuntimeError, match="backward"):
        network.backward(dy)
    network.run(x)
    with pytest.raises(RuntimeError, match="backward"):
        network.backward(dy)
    network.run(x, nn.Step(training=True))
    with pytest.raises(ValueError, match="dy"):
        network.backward(dy[:, :1])
    with pytest.raises(TypeError, match="dy"):
        network.backward(dy, dy)
    network.backward(dy)
    with pytest.raises(RuntimeError, match="backward"):
        network.backward(dy)


def test_arguments_are_not_written():
    network = nn.Sequential(nn.ReLU(), nn.Conv2d(2, 3, 3), nn.ReLU())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2, 5, 5)).astype(np.float32)
    dy = rng.standard_normal((2, 3, 3, 3)).astype(np.float32)
    kept = x.copy(), dy.copy()
    network.run(x, nn.Step(training=True, input_grad=True))
    network.backward(dy)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(dy, kept[1])


def test_wrong_inputs_are_refused():
    network = nn.Sequential(nn.Conv2d(2, 3, 3))
    with pytest.raises(TypeError, match="x: got dtype float64, expected float32"):
        network(np.ones((1, 2, 4, 4)))
    with pytest.raises(TypeError, match="x: got list"):
        network.run([1.0])
    with pytest.raises(ValueError, match="x"):
        network(np.ones((1, 3, 4, 4), np.float32))


def test_shared_weights_are_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    with pytest.raises(ValueError, match="applied twice"):
        Twice()(np.ones((1, 2, 3, 3), np.float32))


def test_copies_are_networks_of_their_own():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU())
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)
    expected = network(x)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        np.testing.assert_array_equal(other(x), expected)
        other.parameters()["0.weight"].data[...] = 0
        np.testing.assert_array_equal(network(x), expected)


def test_a_batch_that_cannot_fit_is_refused(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1))
    limit = 64 * 2**20
    monkeypatch.setattr(recording, "memory_limit", lambda: limit)
    with pytest.raises(MemoryError, match=r"a batch of \d+ fits") as caught:
        network.run(np.zeros((500, 3, 32, 32), np.float32), nn.Step(training=True))
    words = str(caught.value).split()
    largest = int(words[words.index("fits") - 1])
    network.run(np.zeros((largest, 3, 32, 32), np.float32), nn.Step(training=True))
    with pytest.raises(MemoryError, match=f"a batch of {largest} fits"):
        network.run(np.zeros((largest + 1, 3, 32, 32), np.float32), nn.Step(training=True))
    limit = 1000
    with pytest.raises(MemoryError, match="not even a single image"):
        network.run(np.zeros((2, 3, 32, 32), np.float32))


def test_memory_report_tells_what_inference_saves():
    layers = []
    for _ in range(10):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers)
    training = network.memory_report((4, 8, 16, 16))
    inference = network.memory_report((4, 8, 16, 16), training=False)
    image = 4 * 8 * 16 * 16 * 4
    assert inference.arena == 2 * image  # what is read, and what is written
    assert training.activations == 10 * image
    assert training.arena == 12 * image  # one gradient is read while the next is written
    assert training.parameters == 10 * (8 * 8 * 9 + 8) * 4
    assert training.total == sum(
        (training.parameters, training.parameter_gradients, training.arena, training.workspace)
    )
    assert "activations" in str(training)


def test_empty_batches_have_no_gradients():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    for parameter in network.parameters().values():
        parameter.grad[...] = 1
    scores = network.run(np.zeros((0, 2, 4, 4), np.float32), nn.Step(training=True))
    assert scores.shape == (0, 2)
    network.backward(np.zeros((0, 2), np.float32))
    assert not any(parameter.grad.any() for parameter in network.parameters().values())


def test_another_layer_in_place_of_one_is_seen():
    block = Inception()
    x = np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    assert block(x).shape == (2, 8, 6, 6)
    block.left = nn.Conv2d(8, 7, 1)
    assert block(x).shape == (2, 12, 6, 6)
    assert block.parameters()["left.weight"].data.shape == (7, 8, 1, 1)
    block.left = None
    assert [name for name in block.parameters() if name.startswith("left")] == []


def test_a_compiled_network_tells_what_it_takes():
    infer = nn.Sequential(nn.Conv2d(2, 3, 3)).compile((1, 2, 4, 4))
    with pytest.raises(TypeError, match="x: got list"):
        infer([1.0])
    with pytest.raises(ValueError, match=r"x: got float32 \(2, 2, 4, 4\), expected"):
        infer(np.zeros((2, 2, 4, 4), np.float32))


def test_a_compiled_network_is_not_copied():
    infer = nn.Sequential(nn.Conv2d(2, 3, 3)).compile((1, 2, 4, 4))
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="copy the network, and compile the copy"):
            way({"infer": infer} if way is not copy.copy else infer)


class OwnResidual(nn.Module):
    """A convolution whose own operand is added to its result."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) + x


def test_a_residual_that_is_read_too_is_not_overwritten():
    network = OwnResidual()
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32)
    between = network.first(x)
    np.testing.assert_allclose(network(x), network.second(between) + between, rtol=1e-5, atol=1e-5)
