"""Optimizers: PyTorch's where it has them, and their formulas, on flat memory."""

import numpy as np
import pytest

from lowerconv import get_num_threads, nn, set_num_threads

STEPS = 5
LR = [0.1, 0.1, 0.03, 0.2, 0.05]  # a schedule changes it between steps


def network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, dtype=np.float64),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5, dtype=np.float64),
    )
    net.initialize(np.random.default_rng(1))
    net.parameters()["3.bias"].data[:] = np.linspace(-1, 1, 5)
    return net


def gradients(net: nn.Layer, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([2, step])
    return {n: rng.standard_normal(p.data.shape) for n, p in net.parameters().items()}


def train(make) -> tuple[nn.Optimizer, dict[str, np.ndarray]]:
    net = network()
    optimizer = make(net)
    for step, lr in enumerate(LR):
        for name, gradient in gradients(net, step).items():
            net.parameters()[name].grad[...] = gradient
        optimizer.lr = lr
        optimizer.step()
    assert optimizer.updates == STEPS
    return optimizer, {name: p.data for name, p in net.parameters().items()}


#                    ours, PyTorch's
PAIRS = {
    "sgd": (lambda n: nn.SGD(n, 0, weight_decay=0.1), "SGD", {}),
    "momentum": (lambda n: nn.SGD(n, 0, 0.9, 0.1), "SGD", {"momentum": 0.9}),
    "nesterov": (
        lambda n: nn.SGD(n, 0, 0.9, 0.1, nesterov=True),
        "SGD",
        {"momentum": 0.9, "nesterov": True},
    ),
    "adam": (
        lambda n: nn.Adam(n, 0, (0.8, 0.95), 1e-6, 0.1),
        "Adam",
        {"betas": (0.8, 0.95), "eps": 1e-6},
    ),
    "adamw": (lambda n: nn.Adam(n, 0, weight_decay=0.1, decoupled=True), "AdamW", {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_steps_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch")
    make, kind, options = PAIRS[name]
    _, ours = train(make)
    net = network()
    theirs = {n: torch.nn.Parameter(torch.tensor(p.data)) for n, p in net.parameters().items()}
    # Biases do not decay.
    groups = [
        {"params": [p for p in theirs.values() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = getattr(torch.optim, kind)(groups, lr=0.1, **options)
    for step, lr in enumerate(LR):
        for parameter, gradient in gradients(net, step).items():
            theirs[parameter].grad = torch.tensor(gradient)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    for parameter, data in ours.items():
        expected = theirs[parameter].detach().numpy()
        np.testing.assert_allclose(data, expected, rtol=1e-12, atol=1e-13)


def reference(kind: str, w, g, lr, t, kept, decay):
    """Return a parameter after a step, by the formulas of the papers; `kept` is its state."""
    if kind in ("sgd", "nesterov"):
        g = g + decay * w
        kept["v"] = 0.9 * kept.get("v", 0) + g
        return w - lr * (g + 0.9 * kept["v"] if kind == "nesterov" else kept["v"])
    if kind == "lars":
        norm, slope = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
        rate = lr if w.ndim == 1 or norm == 0 else lr * 0.01 * norm / (slope + decay * norm)
        kept["v"] = 0.9 * kept.get("v", 0) + rate * (g + decay * w)
        return w - kept["v"]
    if kind == "adam":
        g = g + decay * w
    kept["m"] = 0.9 * kept.get("m", 0) + 0.1 * g
    kept["s"] = 0.999 * kept.get("s", 0) + 0.001 * g**2
    change = kept["m"] / (1 - 0.9**t) / (np.sqrt(kept["s"] / (1 - 0.999**t)) + 1e-8)
    return w - lr * (change + (decay * w if kind == "adamw" else 0))


FORMULAS = {
    "sgd": lambda n, all_: nn.SGD(n, 0, 0.9, 0.1, decay_biases=all_),
    "nesterov": lambda n, all_: nn.SGD(n, 0, 0.9, 0.1, True, decay_biases=all_),
    "adam": lambda n, all_: nn.Adam(n, 0, weight_decay=0.1, decay_biases=all_),
    "adamw": lambda n, all_: nn.Adam(n, 0, weight_decay=0.1, decoupled=True, decay_biases=all_),
    "lars": lambda n, all_: nn.LARS(n, 0, 0.9, 0.1, trust=0.01, decay_biases=all_),
}


@pytest.mark.parametrize("all_decay", [False, True], ids=["weights-decay", "all-decay"])
@pytest.mark.parametrize("name", FORMULAS)
def test_steps_are_those_of_the_formula(name, all_decay):
    _, ours = train(lambda net: FORMULAS[name](net, all_decay))
    net = network()
    for parameter, w in ((n, p.data) for n, p in net.parameters().items()):
        kept: dict = {}
        decay = 0.1 if all_decay or w.ndim > 1 else 0.0
        for step, lr in enumerate(LR):
            w = reference(name, w, gradients(net, step)[parameter], lr, step + 1, kept, decay)
        np.testing.assert_allclose(ours[parameter], w, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", FORMULAS)
def test_float32_and_any_number_of_threads(name):
    """Ranks with other numbers of threads must agree in every bit."""
    results, threads = [], get_num_threads()
    try:
        for count in (1, 2, 3):
            set_num_threads(count)
            net = nn.Sequential(nn.Linear(130, 300), nn.ReLU(), nn.Linear(300, 4))
            net.initialize(np.random.default_rng(0))
            optimizer = FORMULAS[name](net, False)
            optimizer.lr = 0.01
            for _ in range(2):
                optimizer.grad[:] = np.random.default_rng(1).standard_normal(optimizer.grad.size)
                optimizer.step()
            kept = b"".join(array.tobytes() for array in optimizer.state().values())
            results.append(optimizer.data.tobytes() + kept)
    finally:
        set_num_threads(threads)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", FORMULAS)
def test_parameters_and_gradients_lie_in_flat_memory(name):
    net = network()
    optimizer = FORMULAS[name](net, False)
    for parameter in net.parameters().values():
        assert np.shares_memory(parameter.data, optimizer.data)
        assert np.shares_memory(parameter.grad, optimizer.grad)
    for array in optimizer.state().values():
        assert array.shape == optimizer.data.shape
        views = optimizer.by_name(array)
        assert list(views) == list(net.parameters())
        assert all(np.shares_memory(view, array) for view in views.values())


def test_lars_leaves_weights_of_zero_a_rate():
    net = nn.Linear(3, 2)
    net.weight.data[:] = 0
    optimizer = nn.LARS(net, lr=0.5)
    optimizer.grad[:] = 1
    optimizer.step()
    assert (net.weight.data == -0.5).all()
    optimizer.grad[:] = 0
    optimizer.velocity[:] = 0
    optimizer.step()
    assert (net.weight.data == -0.5).all()


BAD = {
    "lr": lambda n: nn.SGD(n, lr=-1),
    "momentum": lambda n: nn.SGD(n, 0.1, momentum=1.0),
    "weight_decay": lambda n: nn.Adam(n, weight_decay=-0.1),
    "nesterov": lambda n: nn.SGD(n, 0.1, nesterov=True),
    r"betas\[1\]": lambda n: nn.Adam(n, betas=(0.9, 1.0)),
    "eps": lambda n: nn.Adam(n, eps=float("nan")),
    "trust": lambda n: nn.LARS(n, 0.1, trust=-1),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_named(name):
    with pytest.raises(ValueError, match=f"^{name}: got"):
        BAD[name](nn.Linear(2, 2))
