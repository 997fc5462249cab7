"""`Conv2d` and `patch`: convolutions alone, as operators of PyTorch."""

import copy
import pickle
import warnings

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import lowerconv as lc  # noqa: E402

SEED = 3
#   channels and filters, their size, what else, the images
CASES = {
    "plain": ((3, 4, 3), {}, (2, 3, 7, 6)),
    "strided": ((3, 2, (3, 2)), {"stride": (2, 1)}, (2, 3, 7, 6)),
    "padded": ((3, 2, 3), {"padding": (2, 1)}, (2, 3, 5, 4)),
    "no bias": ((3, 2, 1), {"bias": False}, (2, 3, 5, 4)),
    "dilated": ((2, 2, 3), {"dilation": (2, 1)}, (1, 2, 7, 6)),
    "groups": ((4, 6, 3), {"groups": 2}, (2, 4, 5, 6)),
    "depthwise": ((4, 4, 3), {"groups": 4, "padding": 1}, (2, 4, 5, 6)),
    "same": ((2, 2, (4, 3)), {"padding": "same", "dilation": (1, 2)}, (2, 2, 7, 6)),
    "valid": ((2, 2, 2), {"padding": "valid"}, (2, 2, 3, 4)),
    "one image": ((3, 2, 3), {"padding": 1}, (3, 5, 4)),
    "reflect": ((2, 2, 3), {"padding": (2, 1), "padding_mode": "reflect"}, (2, 2, 5, 4)),
    "replicate": ((2, 2, 4), {"padding": "same", "padding_mode": "replicate"}, (2, 2, 5, 4)),
    "circular": ((2, 2, 3), {"padding": 2, "padding_mode": "circular", "stride": 2}, (2, 2, 5, 4)),
    "empty batch": ((3, 2, 3), {"padding": 1}, (0, 3, 5, 4)),
}


def pair(case, dtype=torch.float64):
    """The convolution here, that of PyTorch, and images."""
    sizes, options, shape = CASES[case]
    torch.manual_seed(SEED)
    ours = lc.torch.Conv2d(*sizes, **options, dtype=dtype)
    theirs = nn.Conv2d(*sizes, **options, dtype=dtype)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(shape, dtype=dtype)


def compare(ours, theirs, x, tolerance=1e-10):
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(mine), theirs(other)
    torch.testing.assert_close(y, z, rtol=tolerance, atol=tolerance)
    weights = torch.randn(z.shape, dtype=z.dtype)
    (y * weights).sum().backward(), (z * weights).sum().backward()
    torch.testing.assert_close(mine.grad, other.grad, rtol=tolerance, atol=tolerance)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_convolution(case):
    compare(*pair(case))
    ours, theirs, x = pair(case, torch.float32)
    compare(ours, theirs, x, 1e-4)
    with torch.no_grad():
        assert not ours(x).requires_grad
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_any_memory_format_is_taken():
    ours, theirs, x = pair("padded")
    x = x.to(memory_format=torch.channels_last)
    compare(ours.to(memory_format=torch.channels_last), theirs, x)
    compare(ours, theirs, torch.randn(4, 5, 3, 2, dtype=torch.float64).permute(3, 2, 1, 0))
    assert ours.weight.is_contiguous(memory_format=torch.channels_last)


def _tensors(shape, filters, bias=True):
    torch.manual_seed(SEED)
    x, w = torch.randn(shape, dtype=torch.float64), torch.randn(filters, dtype=torch.float64)
    b = torch.randn(filters[0], dtype=torch.float64) if bias else None
    return [t if t is None else t.requires_grad_() for t in (x, w, b)]


GEOMETRIES = {
    "plain": ((2, 2, 4, 3), (3, 2, 2, 2), ([1, 1], [0, 0, 0, 0], [1, 1], 1)),
    "uneven grouped": ((1, 4, 4, 4), (2, 2, 2, 2), ([1, 2], [1, 0, 2, 1], [2, 1], 2)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_of_gradients(name):
    shape, filters, geometry = GEOMETRIES[name]
    tensors = _tensors(shape, filters)

    def function(x, w, b):
        return torch.ops.lowerconv.conv2d(x, w, b, *geometry)

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("wanted", range(8))
def test_only_the_gradients_that_are_wanted(wanted):
    ours, theirs, x = pair("padded")
    found = []
    for net in (ours, theirs):
        leaves = [x.clone(), net.weight, net.bias]
        for i, leaf in enumerate(leaves):
            leaf.requires_grad_(bool(wanted >> i & 1))
        y = net(leaves[0])
        assert y.requires_grad == bool(wanted)
        if wanted:
            y.square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    for mine, other in zip(*found, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("operator", ["conv2d", "conv2d_input_grad", "conv2d_weight_grad"])
def test_opcheck(operator):
    shape, filters, geometry = GEOMETRIES["uneven grouped"]
    x, w, b = _tensors(shape, filters)
    dy = torch.ops.lowerconv.conv2d(x, w, b, *geometry).detach().requires_grad_()
    operands = {
        "conv2d": (x, w, b),
        "conv2d_input_grad": (dy, w, list(x.shape)),
        "conv2d_weight_grad": (dy, x, list(w.shape)),
    }
    function = getattr(torch.ops.lowerconv, operator).default
    torch.library.opcheck(function, (*operands[operator], *geometry))


class Untraceable(nn.Module):
    """Control flow that depends on the numbers of a tensor."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.left, self.right = nn.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 3, groups=2)
        self.up = nn.ConvTranspose2d(2, 2, 2)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.up(self.left(x) if float(x.mean()) > 0.3 else self.right(x))


def test_patch():
    torch.manual_seed(SEED)
    model = Untraceable().double()
    twin = copy.deepcopy(model)
    parameters, called = list(model.parameters()), []
    model.left.register_forward_hook(lambda *_: called.append("left"))
    assert lc.torch.patch(model) is model
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert kinds == [lc.torch.Conv2d] * 3
    assert list(model.state_dict()) == list(twin.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for factor in (1.0, 0.1):
        for net in (model, twin):
            net.zero_grad()
            y = net(x * factor)
            y.square().sum().backward()
        torch.testing.assert_close(model(x * factor), twin(x * factor))
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            if q.grad is not None:
                torch.testing.assert_close(p.grad, q.grad)
    assert called
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model.up))):
        assert other.state_dict().keys() <= {*model.state_dict(), "weight", "bias"}
    assert type(copy.deepcopy(model).left) is lc.torch.Conv2d
    alone = nn.Conv2d(3, 4, 1)
    assert lc.torch.patch(alone) is alone and type(alone) is lc.torch.Conv2d


def test_patch_says_what_it_does_not_do():
    class Own(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    model = nn.Sequential(Own(3, 4, 1), nn.ReLU())
    with pytest.warns(UserWarning, match=r"no torch\.nn\.Conv2d"):
        lc.torch.patch(model)
    assert type(model[0]) is Own
    with pytest.raises(TypeError, match="model: got int"):
        lc.torch.patch(3)


def test_a_patched_model_may_be_traced():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    twin = copy.deepcopy(model)
    lc.torch.patch(model)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compare(compiled, twin, x)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), twin(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = lc.torch.convert(model, x, strict=True)
    twin.zero_grad(), model.zero_grad()
    compare(converted, twin, x)


def test_what_is_refused():
    conv = lc.torch.Conv2d(3, 4, 3)
    with pytest.raises(TypeError, match=r"got torch.bfloat16, expected torch.float32"):
        conv.to(torch.bfloat16)(torch.ones(1, 3, 5, 5, dtype=torch.bfloat16))
    conv = conv.float()
    with pytest.raises(TypeError, match=r"w: got dtype float32, expected float64"):
        conv(torch.ones(1, 3, 5, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="w: got 3 channels"):
        conv(torch.ones(1, 2, 5, 5))
    with pytest.raises(ValueError, match="x: "):
        conv(torch.ones(5, 5))
    with pytest.raises(NotImplementedError, match="lowerconv::conv2d"):
        x = torch.ones(1, 3, 5, 5).to_sparse()
        torch.ops.lowerconv.conv2d(x, conv.weight, None, [1, 1], [0] * 4, [1, 1], 1)
