"""The models beside their twins in PyTorch: results, gradients, and a hundred steps."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.graph import Graph
from lowerconv.nn.init import undrawn
from lowerconv.nn.models import MODELS, inception_v3
from lowerconv.nn.models.build import Layers
from lowerconv.nn.models.inception_v3 import InceptionAux

torch = pytest.importorskip("torch")

# `bench` is not installed.
_file = Path(__file__).parents[2] / "bench" / "torch_networks" / "__init__.py"
_spec = importlib.util.spec_from_file_location("bench_torch_networks", _file)
torch_networks = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = torch_networks  # its files import from each other
_spec.loader.exec_module(torch_networks)

CLASSES = 7

# Small images, odd extents among them; enough of them that batch norm has something to normalise.
CASES = {
    "lenet": ("lenet", (3, 1, 28, 28), {}),
    "lenet-odd": ("lenet", (2, 3, 17, 22), {}),
    "cifar10_quick": ("cifar10_quick", (3, 3, 32, 32), {}),
    "cifar10_quick-odd": ("cifar10_quick", (2, 1, 33, 47), {}),
    "nin": ("nin", (2, 3, 32, 32), {}),
    "alexnet": ("alexnet", (2, 3, 63, 70), {}),
    "vgg11": ("vgg11", (2, 3, 33, 32), {}),
    "vgg16": ("vgg16", (2, 1, 32, 32), {}),
    "vgg16-batch_norm": ("vgg16", (4, 3, 64, 32), {"batch_norm": True}),
    "googlenet": ("googlenet", (2, 3, 79, 83), {}),
    "googlenet-small": ("googlenet", (2, 3, 47, 47), {"auxiliary": False}),
    "googlenet-batch_norm": ("googlenet", (4, 3, 79, 79), {"batch_norm": True}),
    "resnet20": ("resnet20", (3, 3, 32, 32), {}),
    "resnet20-odd": ("resnet20", (4, 1, 17, 23), {}),
    "resnet56": ("resnet56", (3, 3, 16, 16), {}),
    "resnet18": ("resnet18", (4, 3, 65, 48), {}),
    "resnet50": ("resnet50", (4, 3, 64, 64), {}),
    "inception_v3": ("inception_v3", (4, 3, 107, 107), {"auxiliary": False}),
}


@pytest.fixture(autouse=True)
def one_thread_of_pytorch():
    """Two pools of threads wait for each other on a machine that has other work to do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(name, image_shape, dtype=np.float64, seed=0, **options):
    """Return a model and its twin with the same random weights and statistics, without dropout."""
    with undrawn():
        network = MODELS[name].build(image_shape, CLASSES, dtype=dtype, **options)
    twin = getattr(torch_networks, name)(image_shape, CLASSES, **options)
    return same_weights(network, twin, dtype, seed)


def same_weights(network, twin, dtype, seed):
    """Give both the same random weights and statistics.

    Rounding decides which side of zero some sums fall on, and a ReLU then passes another gradient:
    of float32, one in a hundred thousand, which batch norm on few pixels makes a hundredth of the
    whole. So in float32 batch norm keeps its results away from zero.
    """
    rng = np.random.default_rng(seed)
    network.initialize(rng)
    twin = twin.to(getattr(torch, np.dtype(dtype).name))
    state = {name: parameter.data for name, parameter in network.parameters().items()}
    state |= network.buffers()
    for name, array in state.items():
        layer, _, own = name.rpartition(".")
        normalises = f"{layer}.running_mean" in state and dtype == np.float32
        if own == "bias" and normalises:
            array[...] = rng.choice([-1, 1], array.shape)
        elif own in ("bias", "running_mean"):
            array[...] = rng.normal(0, 0.1, array.shape)
        elif array.ndim == 1:
            array[...] = rng.uniform(0.5, 1.5, array.shape) * (0.2 if normalises else 1)
    theirs = {k: v for k, v in twin.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert sorted(theirs) == sorted(state)
    for name, tensor in theirs.items():
        assert tuple(tensor.shape) == state[name].shape, name
        tensor.copy_(torch.from_numpy(state[name]))
    for _, module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for module in twin.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return network, twin


def error(found, expected, scale=0.0):
    """Return how far arrays are apart, relative to the norm of the expected one."""
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), scale)


def as_tuple(results):
    return results if isinstance(results, tuple) else (results,)


def training_errors(network, twin, x, seed):
    """Return how far results, gradients and running statistics of a step are apart, by name."""
    rng = np.random.default_rng(seed)
    x_torch = torch.from_numpy(x).requires_grad_()
    expected = as_tuple(twin.train()(x_torch))
    found = as_tuple(network.run(x, nn.Step(training=True, input_grad=True)))
    assert len(found) == len(expected)
    dys = [rng.standard_normal(y.shape).astype(x.dtype) for y in found]
    pairs = zip(found, expected, strict=True)
    results = {f"result {i}": error(y, z.detach().numpy()) for i, (y, z) in enumerate(pairs)}
    dx = network.backward(*dys)
    torch.autograd.backward(expected, [torch.from_numpy(dy) for dy in dys])
    gradients = {"input": error(dx, x_torch.grad.numpy())}
    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    for name, parameter in network.parameters().items():
        # A bias before batch norm has no gradient but rounding errors: those of the layer count.
        scale = np.linalg.norm(theirs[name.rpartition(".")[0] + ".weight"])
        gradients[name] = error(parameter.grad, theirs[name], scale)
    statistics = dict(twin.named_buffers())
    for name, array in network.buffers().items():
        results[name] = error(array, statistics[name].numpy())
    return results, gradients


def assert_small(errors, tolerance):
    worst = max(errors, key=errors.get)
    assert errors[worst] <= tolerance, f"{worst}: relative error {errors[worst]:.2g}"


@pytest.mark.parametrize("case", CASES)
def test_a_step_agrees_with_pytorch(case):
    name, x_shape, options = CASES[case]
    x = np.random.default_rng(1).standard_normal(x_shape)
    network, twin = pair(name, x_shape[1:], np.float64, **options)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(x)).numpy()
    assert error(network(x), expected) <= 1e-9
    assert error(network.compile(x_shape)(x), expected) <= 1e-9
    for errors in training_errors(network, twin, x, seed=2):
        assert_small(errors, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_a_step_in_float32_agrees_with_pytorch(case):
    """Where two values are equal but for rounding, a maximum passes its gradient on elsewhere.

    That happens to PyTorch as to us, and then other weights are tried: kernels that are wrong are
    wrong with all.
    """
    name, x_shape, options = CASES[case]
    x = np.random.default_rng(1).standard_normal(x_shape).astype(np.float32)
    for seed in range(5):
        network, twin = pair(name, x_shape[1:], np.float32, seed, **options)
        with torch.no_grad():
            expected = twin.eval()(torch.from_numpy(x)).numpy()
        assert error(network(x), expected) <= 1e-3
        assert error(network.compile(x_shape)(x), expected) <= 1e-3
        results, gradients = training_errors(network, twin, x, seed=2)
        assert_small(results, 1e-3)
        if max(gradients.values()) <= 1e-3:
            break
    else:
        assert_small(gradients, 1e-3)


def test_the_auxiliary_classifier_of_inception_v3_agrees_with_pytorch():
    """Alone: it needs images of 299 x 299 pixels."""
    network = InceptionAux(Layers(dtype=np.float64), 768, CLASSES)
    network, twin = same_weights(network, torch_networks.InceptionAux(CLASSES), np.float64, 0)
    x = np.random.default_rng(1).standard_normal((5, 768, 17, 17))
    for errors in training_errors(network, twin, x, seed=2):
        assert_small(errors, 1e-9)
    graph = Graph(inception_v3(classes=CLASSES), (1, 3, 299, 299), np.float32, True)
    assert [value.shape for value in graph.results] == [(1, CLASSES)] * 2


@pytest.mark.parametrize(
    ("name", "image_shape", "dtype", "lr", "batch", "tolerance"),
    [
        ("cifar10_quick", (3, 16, 16), np.float64, 0.01, 8, 1e-9),
        ("resnet20", (3, 16, 16), np.float64, 0.01, 8, 1e-9),
        ("googlenet", (3, 47, 47), np.float64, 0.001, 2, 1e-9),
        # Gently: where a network learns fast, float32 strays from float64 in PyTorch too.
        ("cifar10_quick", (3, 16, 16), np.float32, 0.001, 8, 1e-3),
        ("resnet20", (3, 16, 16), np.float32, 0.005, 16, 1e-3),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_hundred_steps_agree_with_pytorch(name, image_shape, dtype, lr, batch, tolerance):
    options = {"auxiliary": False} if name == "googlenet" else {}
    network, twin = pair(name, image_shape, dtype, **options)
    settings = {"lr": lr, "momentum": 0.9, "weight_decay": 1e-3}
    ours = nn.SGD(network, **settings, decay_biases=True)
    theirs = torch.optim.SGD(twin.train().parameters(), **settings)
    rng = np.random.default_rng(3)
    patterns = rng.standard_normal((CLASSES, *image_shape))  # something to be learnt
    losses = np.zeros((100, 2))
    for step in range(len(losses)):
        labels = rng.integers(CLASSES, size=batch)
        noise = 0.3 * rng.standard_normal((batch, *image_shape))
        x = (patterns[labels] + noise).astype(dtype)
        result = nn.softmax_cross_entropy(network.run(x, nn.Step(training=True)), labels)
        network.backward(result.gradient)
        ours.step()
        theirs.zero_grad()
        scores = twin(torch.from_numpy(x))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels))
        loss.backward()
        theirs.step()
        losses[step] = result.loss / batch, loss.item()
    assert losses[-20:].mean() < 0.9 * losses[:5].mean()
    apart = np.abs(losses[:, 0] - losses[:, 1])
    assert apart.max() <= tolerance, f"step {apart.argmax()}: {losses[apart.argmax()]}"


EXCHANGED = {
    "alexnet": ((3, 63, 63), {}),
    "vgg11": ((3, 32, 32), {"batch_norm": True}),
    "googlenet": ((3, 79, 79), {"batch_norm": True}),
    "resnet18": ((3, 32, 32), {}),
    "resnet50": ((3, 32, 32), {}),
    "inception_v3": ((3, 75, 75), {"auxiliary": False}),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_weights_go_both_ways(name, tmp_path):
    """A state_dict of PyTorch is loaded, from memory and as a file; and PyTorch loads our file."""
    from safetensors.torch import load_file, save_file

    image_shape, options = EXCHANGED[name]
    x = np.random.default_rng(1).standard_normal((2, *image_shape)).astype(np.float32)

    def build():
        return MODELS[name].build(image_shape, CLASSES, **options)

    def build_twin():
        return getattr(torch_networks, name)(image_shape, CLASSES, **options).eval()

    def scores(twin):
        with torch.no_grad():
            return twin(torch.from_numpy(x)).numpy()

    twin = build_twin()
    with torch.no_grad():
        for buffer in twin.buffers():
            if buffer.dtype.is_floating_point:
                buffer.uniform_(0.5, 1.5)
    network = build()
    network.load(twin.state_dict())
    expected = scores(twin)
    assert error(network(x), expected) <= 1e-3
    save_file(twin.state_dict(), tmp_path / "theirs.safetensors")
    network = build()
    network.load(tmp_path / "theirs.safetensors")
    network.save(tmp_path / "ours.safetensors")
    twin = build_twin()
    twin.load_state_dict(load_file(tmp_path / "ours.safetensors"))
    assert np.array_equal(scores(twin), expected)
