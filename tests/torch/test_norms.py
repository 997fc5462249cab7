"""Layer, group and instance norm, and softmax, converted: beside PyTorch, with gradients."""

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import lowerconv as lc  # noqa: E402
from lowerconv.nn.computed import Computed  # noqa: E402

SEED = 2


class ChannelsFirst(nn.Module):
    """Layer norm over the channels of images, as ConvNeXt has it."""

    def __init__(self, channels):
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


CASES = {
    "layer": (lambda: nn.LayerNorm((4, 6)), (3, 4, 6)),
    "layer without shift": (lambda: nn.LayerNorm(6, bias=False), (3, 5, 6)),
    "layer alone": (lambda: nn.LayerNorm(6, elementwise_affine=False), (3, 6)),
    "channels first": (lambda: ChannelsFirst(6), (2, 6, 13, 11)),
    "group": (lambda: nn.GroupNorm(2, 6), (3, 6, 4, 5)),
    "group alone": (lambda: nn.GroupNorm(3, 6, affine=False), (3, 6, 7)),
    "instance": (lambda: nn.InstanceNorm2d(6, affine=True), (3, 6, 4, 5)),
    "softmax": (lambda: nn.Softmax(1), (3, 7, 5, 11)),
    "response": (lambda: nn.LocalResponseNorm(5, alpha=0.3, beta=0.6, k=2), (3, 8, 5, 4)),
    "response of an even size": (lambda: nn.LocalResponseNorm(4), (3, 7, 5, 4)),
    "response of one": (lambda: nn.LocalResponseNorm(1), (2, 3, 5, 4)),
    "log softmax": (lambda: nn.LogSoftmax(-1), (3, 50)),
}


@pytest.mark.parametrize("name", CASES)
def test_norms(name):
    make, shape = CASES[name]
    torch.manual_seed(SEED)
    model = make().double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x, dy = torch.randn(shape).double() * 3 + 2, torch.randn(shape).double()
    converted = lc.torch.convert(model, x, strict=True)
    found = []
    for net in (converted, model):
        net.zero_grad()
        given = x.clone().requires_grad_()
        y = net(given)
        (y * dy).sum().backward()
        found.append([y.detach(), given.grad, *(p.grad.clone() for p in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), model(x), rtol=1e-9, atol=1e-9)
    (runner,) = converted._known.values()
    layers = runner._frozen._layers.values()
    assert not any(isinstance(layer, Computed) for layer in layers)  # moves of axes cancel, too
