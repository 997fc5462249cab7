"""Converted modules against the same modules in PyTorch: results, gradients, everything around."""

import copy
import cProfile
import importlib.util
import logging
import pickle
import pstats
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

import lowerconv as lc  # noqa: E402
from lowerconv.nn.program import Program  # noqa: E402


def _networks():
    spec = importlib.util.spec_from_file_location(
        "torch_networks", Path(__file__).parent / "networks.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_networks"] = module  # pickles name it
    spec.loader.exec_module(module)
    return module.NETWORKS


NETWORKS = _networks()
SEED = 5
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def close(ours, theirs, scale=1.0, what=""):
    limit = TOLERANCE[theirs.dtype] * max(
        1.0, float(theirs.detach().abs().max()) if theirs.numel() else 0
    )
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, what
    assert float((ours - theirs).detach().abs().max()) <= limit * scale, what


def pair(make, dtype=torch.float64):
    """A module and its twin."""
    torch.manual_seed(SEED)
    model = make().to(dtype)
    return model, copy.deepcopy(model)


def images(dtype, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=dtype)


def compare(converted, twin, x, gradients=True):
    """Run both forward and backward, and compare all that comes of it."""
    mine, other = x.clone().requires_grad_(gradients), x.clone().requires_grad_(gradients)
    ours, theirs = converted(mine), twin(other)
    flat, spec = pytree.tree_flatten(ours)
    flat_theirs, spec_theirs = pytree.tree_flatten(theirs)
    assert spec == spec_theirs
    for a, b in zip(flat, flat_theirs, strict=True):
        close(a, b, what="result")
    if gradients:
        weights = [images(b.dtype, *b.shape) for b in flat_theirs]
        sum((a * w).sum() for a, w in zip(flat, weights, strict=True)).backward()
        sum((b * w).sum() for b, w in zip(flat_theirs, weights, strict=True)).backward()
        close(mine.grad, other.grad, 10, "input")
        for (name, a), b in zip(converted.named_parameters(), twin.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if b.grad is not None:
                close(a.grad, b.grad, 50, name)
    for (name, a), b in zip(converted.named_buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_networks(name, dtype):
    model, twin = pair(NETWORKS[name], dtype)
    x = images(dtype, 3, 3, 32, 32)
    converted = lc.torch.convert(model, x, strict=True)
    compare(converted, twin, x)
    if dtype == torch.float64:
        compare(converted, twin, images(dtype, 2, 3, 24, 32))
        converted.eval(), twin.eval()
        compare(converted, twin, x)
        with torch.no_grad():
            compare(converted, twin, images(dtype, 1, 3, 32, 32), gradients=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_keeps_the_loss(dtype):
    model, twin = pair(NETWORKS["resnet"], dtype)
    x, labels = images(dtype, 8, 3, 32, 32), torch.arange(8) % 10
    converted = lc.torch.convert(model, x, strict=True)
    losses = []
    for net in (converted, twin):
        # The steps of Adam follow the sign of gradients that are nearly zero, whatever their noise.
        kinds = {torch.float64: torch.optim.AdamW, torch.float32: torch.optim.SGD}
        optimizer = kinds[dtype](net.parameters(), lr=1e-3)
        found = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]


def test_gradients_accumulate_and_run_again():
    model, twin = pair(NETWORKS["resnet"])
    x, z = images(torch.float64, 2, 3, 32, 32), images(torch.float64, 3, 3, 32, 32)
    converted = lc.torch.convert(model, x, strict=True)
    for net in (converted, twin):
        a, b = net(x), net(z)  # the second takes the memory of the first
        (a.square().mean() + b.square().mean()).backward()
        net(x).sum().backward()
    for (name, p), q in zip(converted.named_parameters(), twin.parameters(), strict=True):
        close(p.grad, q.grad, 50, name)
    for (name, a), b in zip(converted.named_buffers(), twin.named_buffers(), strict=True):
        assert torch.allclose(a, b[1]), name


def test_a_changed_weight_is_followed():
    model, twin = pair(NETWORKS["mobilenet_v2"])
    x = images(torch.float64, 2, 3, 32, 32)
    converted = lc.torch.convert(model.eval(), x, strict=True)
    twin.eval()
    compare(converted, twin, x, gradients=False)
    with torch.no_grad():
        for net in (model, twin):
            net[0].weight.mul_(1.5)
    compare(converted, twin, x, gradients=False)
    for net in (model, twin):
        net[6].weight.data = net[6].weight.data + 0.25
        net[1].running_mean.add_(0.5)
    compare(converted, twin, x, gradients=False)
    other = NETWORKS["mobilenet_v2"]().double().state_dict()
    converted.load_state_dict(other), twin.load_state_dict(other)
    compare(converted, twin, x, gradients=False)


def test_answers_follow_training():
    model, twin = pair(NETWORKS["resnet"])
    x = images(torch.float64, 2, 3, 32, 32)
    converted = lc.torch.convert(model, x, strict=True)
    for net in (converted, twin):
        net.eval()(x)
        optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1)
        net(x).square().mean().backward()
        optimizer.step()
        net.eval()
    compare(converted, twin, x)


def test_part_of_the_parameters():
    model, twin = pair(NETWORKS["resnet"])
    x = images(torch.float64, 2, 3, 32, 32)
    for net in (model, twin):
        net.stem.requires_grad_(False)
        net.stem.eval()
        net.blocks[0].bn1.eval()
    compare(lc.torch.convert(model, x, strict=True), twin, x)
    assert model.stem[0].weight.grad is None


def test_state_copies_and_pickles():
    model, twin = pair(NETWORKS["resnet"])
    x = images(torch.float64, 2, 3, 32, 32)
    converted = lc.torch.convert(model, x, strict=True)
    assert list(converted.state_dict()) == list(twin.state_dict())
    assert dict(converted.named_parameters()).keys() == dict(twin.named_parameters()).keys()
    assert all(a is b for a, b in zip(converted.parameters(), model.parameters(), strict=True))
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert type(other) is type(converted)
        assert other.fc.weight.data_ptr() != model.fc.weight.data_ptr()
        compare(other, copy.deepcopy(twin), x)
    compare(converted, twin, x)


def test_dropout_follows_the_generator():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(800, 4))
    x = torch.ones(2, 3, 12, 12)
    converted = lc.torch.convert(model, x, strict=True)
    torch.manual_seed(3)
    first, second = converted(x), converted(x)
    torch.manual_seed(3)
    assert torch.equal(converted(x), first) and not torch.equal(first, second)
    dropped = lc.torch.convert(nn.Sequential(nn.Dropout(0.25)), torch.ones(100, 100), strict=True)
    y = dropped(torch.ones(100, 100))
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    assert 0.2 < float((y == 0).float().mean()) < 0.3


def test_weights_in_several_places():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)

        def forward(self, x):
            x = self.conv(self.conv(x).relu())
            x = self.fc(x.mean((2, 3))) @ self.fc.weight
            return x, x, x.sum(), None

    model, twin = pair(Twice)
    x = images(torch.float64, 2, 3, 8, 8)
    converted = lc.torch.convert(model, x, strict=True)
    found, expected = converted(x), twin(x)
    assert found[3] is None
    for outputs in (found, expected):
        (outputs[0].sum() + outputs[1].square().sum() + outputs[2]).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        close(p.grad, q.grad, 10)


class Three(nn.Module):
    """Reads three inputs, one of integers, and one that it leaves alone."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, x, z, where, unread):
        y = self.conv(x) + self.fc(z)[:, :, None, None] * where
        return y.relu() * z.mean(), y + x.mean()


@pytest.mark.parametrize("wanted", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_several_inputs(wanted):
    model, twin = pair(Three)
    x, z = images(torch.float64, 2, 3, 6, 6), images(torch.float64, 2, 5)
    where = torch.arange(36).reshape(6, 6) % 3
    found = []
    for net in (lc.torch.convert(model, (x, z, where, x), strict=True), twin):
        given = [t.clone().requires_grad_(bool(w)) for t, w in zip((x, z), wanted, strict=True)]
        unread = x.clone().requires_grad_()
        a, b = net(*given, where, unread)
        (a.square().sum() + b.sum()).backward()
        found.append((a, b, *(t.grad for t in given), *(p.grad for p in net.parameters())))
        assert unread.grad is None
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            close(ours, theirs, 10)


def test_a_value_of_which_only_integers_are_made():
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).to(torch.int64).to(x.dtype) * self.other(x)

    model, twin = pair(Rounded)
    x = images(torch.float64, 2, 3, 6, 6)
    compare(lc.torch.convert(model, x, strict=True), twin, x)
    assert model.conv.weight.grad is None


def test_channels_last():
    model, twin = pair(NETWORKS["resnet"])
    x = images(torch.float64, 2, 3, 32, 32).to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    compare(lc.torch.convert(model, x, strict=True), twin, x)


def test_what_is_not_converted_is_told():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(torch.fft.fft(x).abs(), 1).sort(1)[0]

    x = torch.ones(2, 8)
    with pytest.raises(lc.torch.UnsupportedError, match=r"cumsum.*fft_fft.*sort"):
        lc.torch.convert(Odd(), x, strict=True)
    model = Odd()
    with pytest.warns(UserWarning, match="Odd is not converted") as told:
        assert lc.torch.convert(model, x) is model
    assert len(told) == 1


@pytest.mark.parametrize(
    "model, reason",
    [
        (nn.BatchNorm2d(3, momentum=None), "momentum"),
        (nn.Conv2d(3, 3, 1).to(torch.bfloat16), "bfloat16"),
        (nn.ReLU(inplace=True), "changes the input"),
    ],
)
def test_reasons(model, reason):
    kind = next((p.dtype for p in model.parameters()), torch.float32)
    with pytest.raises(lc.torch.UnsupportedError, match=reason):
        lc.torch.convert(model, torch.ones(2, 3, 4, 4, dtype=kind), strict=True)


def test_hooks_of_parts_are_not_left_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    x = torch.ones(2, 3, 4, 4)
    converted = lc.torch.convert(model, x)
    called = []
    converted.register_forward_hook(lambda *_: called.append("whole"))
    converted(x)
    assert called == ["whole"]
    model[0].register_forward_hook(lambda *_: called.append("part"))
    with pytest.warns(UserWarning, match="hooks"):
        converted(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once
        converted(x)
    assert called == ["whole", "part", "whole", "part", "whole"]


def test_inequalities_that_torch_cannot_solve_are_not_logged():
    told = []

    class Told(logging.Handler):
        def emit(self, record):
            told.append(record.getMessage())

    handler = Told()
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    logger.addHandler(handler)
    pools = [nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(3)]
    model = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), *pools)
    x = images(torch.float32, 2, 3, 64, 64)
    try:
        y = lc.torch.convert(model, x, strict=True)(x)
    finally:
        logger.removeHandler(handler)
    close(y, model(x))
    assert not told


def test_a_part_is_replaced():
    model, twin = pair(NETWORKS["resnet"])
    x = images(torch.float64, 2, 3, 32, 32)
    converted = lc.torch.convert(model, x, strict=True)
    converted.fc = nn.Linear(16, 4).double()
    twin.fc = copy.deepcopy(converted.fc)
    compare(converted, twin, x)


def test_refusals():
    x = torch.ones(2, 3, 4, 4, requires_grad=True)
    converted = lc.torch.convert(nn.Conv2d(3, 4, 1), x, strict=True)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast"):
        converted(x)
    (dx,) = torch.autograd.grad(converted(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|twice"):
        dx.sum().backward()
    y = converted(x)
    with torch.no_grad():
        converted.weight.add_(1)
    with pytest.raises(RuntimeError, match=r"modified|changed"):
        y.sum().backward()
    with torch.no_grad():
        assert not converted(x).requires_grad
    with pytest.raises(TypeError, match="model"):
        lc.torch.convert(3, x)


def test_importing_the_library_does_not_import_torch():
    import subprocess

    code = (
        "import sys, lowerconv; assert not {'torch', 'onnx'} & set(sys.modules); "
        "lowerconv.torch; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_call_costs_beside_its_program(monkeypatch):
    """Calls of functions, of Python and C; each takes some 0.1 us, on any machine."""
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(20))).eval()
    x = torch.ones(1, 3, 4, 4)
    converted = lc.torch.convert(model, x, strict=True)
    with torch.no_grad():
        y = converted(x)
        result = y.numpy().copy()
        monkeypatch.setattr(Program, "forward", lambda *_: result)
        with cProfile.Profile() as profile:
            z = converted(x)
    assert torch.equal(y, z)
    leaves = len(list(model.parameters()))
    calls = sum(row[1] for row in pstats.Stats(profile).stats.values())
    assert calls <= 100 + leaves, f"{calls} calls with {leaves} parameters"
