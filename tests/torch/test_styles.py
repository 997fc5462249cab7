"""Modules in styles of others: equal to PyTorch in all that comes of a call, or told and left."""

import copy
import importlib.util
import sys
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402
from torch.utils import _pytree as pytree  # noqa: E402

import lowerconv as lc  # noqa: E402


def _styles():
    path = Path(__file__).parent / "styles.py"
    spec = importlib.util.spec_from_file_location("torch_styles", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torch_styles"] = module
    spec.loader.exec_module(module)
    return module


styles = _styles()
SEED = 7


def images(*shape):
    draw = torch.Generator().manual_seed(SEED)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def pair(make):
    torch.manual_seed(SEED)
    model = make().double()
    twin = make().double()
    twin.load_state_dict(model.state_dict())
    return model, twin


def near(a, b, what):
    assert a.shape == b.shape and a.dtype == b.dtype, what
    if not b.is_floating_point():
        assert torch.equal(a, b), what
    elif b.numel():
        a, b = a.detach(), b.detach()
        assert float((a - b).abs().max()) <= 1e-9 * max(1.0, float(b.abs().max())), what


def check(ours, theirs, x, gradients=True, **named):
    """Compare results and which have gradients, all gradients and which are None, and the state."""
    given = [x.clone().requires_grad_(gradients) for _ in range(2)]
    found = []
    for net, z in zip((ours, theirs), given, strict=True):
        net.zero_grad()
        leaves, spec = pytree.tree_flatten(net(z, **named))
        found.append((leaves, spec))
        learnt = [y for y in leaves if isinstance(y, torch.Tensor) and y.requires_grad]
        if gradients and learnt:
            ramps = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view(y.shape) for y in learnt]
            sum((y * r).sum() for y, r in zip(learnt, ramps, strict=True)).backward()
    (a, spec), (b, other) = found
    assert spec == other
    for i, (mine, yours) in enumerate(zip(a, b, strict=True)):
        if isinstance(yours, torch.Tensor):
            near(mine, yours, f"result {i}")
            assert mine.requires_grad == yours.requires_grad, f"result {i}"
        else:
            assert mine == yours
    both = zip(ours.named_parameters(), theirs.parameters(), strict=True)
    grads = [("input", *(z.grad for z in given)), *((n, p.grad, q.grad) for (n, p), q in both)]
    for name, mine, yours in grads:
        assert (mine is None) == (yours is None), name
        if yours is not None:
            near(mine, yours, name)
    for name, yours in theirs.state_dict().items():
        mine = ours.state_dict()
        near(mine.get(name, mine.get(f"_orig_mod.{name}")), yours, name)


@pytest.mark.parametrize("make", styles.STYLES)
def test_convert(make):
    model, twin = pair(make)
    x = images(3, 3, 16, 16)
    converted = lc.torch.convert(model, x, strict=True)
    check(converted, twin, x)
    check(converted, twin, x)
    check(converted, twin, images(2, 3, 24, 16))
    converted.eval(), twin.eval()
    check(converted, twin, x)
    with torch.no_grad():
        check(converted, twin, x[:1], gradients=False)


@pytest.mark.parametrize("make", [styles.Averages, styles.NoGradients, styles.Shared])
def test_compile(make):
    model, twin = pair(make)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=lc.torch.backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            check(compiled, twin, images(3, 3, 16, 16))
        compiled.eval(), twin.eval()
        check(compiled, twin, images(3, 3, 16, 16))


def test_arguments_by_name():
    model, twin = pair(styles.Structures)
    x, mask = images(2, 3, 8, 8), images(2, 1, 8, 8)
    converted = lc.torch.convert(model, x, strict=True)
    for named in ({"mask": mask}, {"scale": 0.5, "features": {"a": images(2, 4)}}, {"scale": 2}):
        check(converted, twin, x, **named)


def test_buffers_that_changed_since_are_those_of_the_run():
    model, twin = pair(styles.Averages)
    x, z = images(2, 3, 8, 8), images(3, 3, 8, 8)
    converted = lc.torch.convert(model, x, strict=True)
    for net in (converted, twin):
        a, b = net(x), net(z)  # the second takes the memory of the first
        (a.square().sum() + b.square().sum()).backward()
    for p, q in zip(converted.parameters(), twin.parameters(), strict=True):
        near(p.grad, q.grad, "gradient")
    for p, q in zip(converted.buffers(), twin.buffers(), strict=True):
        near(p, q, "buffer")


def test_random_numbers_are_new_ones_in_each_call():
    model, _ = pair(styles.Depth)
    x = images(64, 3, 2, 2)
    converted = lc.torch.convert(model, x, strict=True)
    masks = [(converted(x).abs().sum((1, 2, 3)) > 0) for _ in range(2)]
    assert not torch.equal(*masks) and all(10 < int(m.sum()) < 54 for m in masks)
    kept = masks[1].nonzero()[0, 0]
    torch.manual_seed(3)
    y = converted(x)
    torch.manual_seed(3)
    assert torch.equal(converted(x), y)
    model.p = 0.0  # an attribute is followed
    near(converted(x)[kept], model.conv(x)[kept], "result")

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn(x.shape, dtype=x.dtype)

    with pytest.raises(lc.torch.UnsupportedError, match="randn"):
        lc.torch.convert(Noise(), x, strict=True)


def test_attributes_are_followed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.factor = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 1.0
            self.offset = torch.zeros((), dtype=torch.float64)

        def forward(self, x):
            return self.norm(self.conv(x)) * self.factor + self.offset

    model, twin = pair(Scaled)
    x = images(2, 3, 8, 8)
    converted = lc.torch.convert(model, x, strict=True)
    check(converted, twin, x)
    for net in (model, twin):
        net.factor, net.norm.momentum = 3.0, 0.5
        net.offset.add_(1)
    check(converted, twin, x)
    for net in (model, twin):
        net.offset = torch.ones((), dtype=torch.float64) * 5
        net.norm.eps = 0.1
    check(converted, twin, x)
    assert converted.factor == 3.0


def test_what_forward_sets_is_told():
    model, twin = pair(styles.Counting)
    x = images(2, 3, 8, 8)
    with pytest.warns(UserWarning, match="sets the attribute 'calls'"):
        converted = lc.torch.convert(model, x)
    assert converted is model and model.calls == 0
    check(converted, twin, x)

    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.ones(1, requires_grad=True)

        def forward(self, x):
            return x * self.factor

    with pytest.raises(lc.torch.UnsupportedError, match=r"'factor' asks for gradients"):
        lc.torch.convert(Hidden(), x, strict=True)


def test_another_dtype_and_other_tensors():
    model, twin = pair(styles.Shared)
    x = images(2, 3, 8, 8).float()
    converted = lc.torch.convert(model.float(), x, strict=True)
    converted(x)
    converted.double(), twin.double()
    twin.load_state_dict(model.state_dict())
    check(converted, twin, x.double())
    for net in (model, twin):
        net.block[0] = nn.Conv2d(3, 3, 3, padding=1, bias=False).double()
        net.block[0].weight = net.tied.weight
    check(converted, twin, x.double())
    for net in (model, twin):
        net.block[0].bias = nn.Parameter(torch.ones(3).double())
    check(converted, twin, x.double())


def test_memory_of_gradients_is_not_taken_from_who_has_it():
    model, twin = pair(styles.Shared)
    x, z = images(2, 3, 8, 8), images(2, 3, 8, 8) + 1
    converted = lc.torch.convert(model, x, strict=True)
    held = []
    for net in (converted, twin):
        parameters = list(net.parameters())
        first = torch.autograd.grad(net(x).square().sum(), parameters)
        second = torch.autograd.grad(net(z).square().sum(), parameters)
        net(x).sum().backward()
        net(z).sum().backward()  # adds up
        held.append((*first, *second, *(p.grad for p in parameters)))
        arrays = [p.grad.numpy() for p in parameters]
        kept = [a.copy() for a in arrays]
        net.zero_grad(set_to_none=True)
        net(z).square().sum().backward()
        assert all((a == b).all() for a, b in zip(arrays, kept, strict=True))
    for a, b in zip(*held, strict=True):
        near(a, b, "gradient")


def test_averaged_copies_and_functions_of_parameters():
    model, twin = pair(styles.Shared)
    x = images(2, 3, 8, 8)
    converted = lc.torch.convert(model, x, strict=True)
    slow, other = copy.deepcopy(converted).eval(), copy.deepcopy(twin).eval()
    check(slow, other, x)
    for average, net in ((slow, model), (other, twin)):
        with torch.no_grad():
            for p, q in zip(average.parameters(), net.parameters(), strict=True):
                p.mul_(0.5).add_(q, alpha=0.25)
    check(slow, other, x)
    for average in (slow, other):
        for p in average.parameters():
            p.data.mul_(0.5)  # of which autograd does not know
    check(slow, other, x)
    changed = {name: p.detach() * 2 for name, p in model.named_parameters()}
    call = torch.func.functional_call
    near(call(converted, changed, (x,)), call(twin, changed, (x,)), "functional call")

    model.eval(), twin.eval()  # where batch norm counts nothing in place

    def loss(net):
        return lambda parameters: call(net, parameters, (x,)).square().sum()

    with pytest.warns(UserWarning, match=r"torch\.func"):
        relaxed = lc.torch.convert(model, x)
        ours = torch.func.grad(loss(relaxed))(changed)
    for name, yours in torch.func.grad(loss(twin))(changed).items():
        near(ours[name], yours, name)


def test_autocast_falls_back():
    model, twin = pair(styles.Checkpointed)
    model, twin = model.float(), twin.float()
    x = images(2, 3, 8, 8).float()
    converted = lc.torch.convert(model, x)
    with torch.autocast("cpu", torch.bfloat16), pytest.warns(UserWarning, match="autocast"):
        y, z = converted(x), twin(x)
    assert y.dtype == z.dtype and torch.equal(y, z)
