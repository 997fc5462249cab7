"""A hundred steps of training keep the loss that PyTorch has.

In float32 this can be held only where PyTorch itself keeps the loss that it has in float64: where a
network learns fast, roundings grow by as much in each step. So the rate is small here, the images
are few, and that PyTorch agrees with itself is tested, too.
"""

import copy
import importlib.util
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import lowerconv as lc  # noqa: E402

SEED, STEPS, BATCH = 11, 100, 8
LIMIT = {torch.float64: 1e-9, torch.float32: 1e-3}


def _resnet():
    path = Path(__file__).parent / "networks.py"
    spec = importlib.util.spec_from_file_location("steps_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ResNet()


def chain():
    """Convolutions, pools of both kinds, batch norm, without dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def batches(dtype):
    """Images of ten kinds, and noise."""
    draw = torch.Generator().manual_seed(SEED)
    kinds = torch.randn(10, 3, 16, 16, generator=draw, dtype=torch.float64)
    for _ in range(STEPS):
        labels = torch.randint(10, (BATCH,), generator=draw)
        noise = torch.randn(BATCH, 3, 16, 16, generator=draw, dtype=torch.float64)
        yield (kinds[labels] + 0.5 * noise).to(dtype), labels


def losses(network, dtype, called=None):
    optimizer = torch.optim.SGD(network.parameters(), lr=2e-3, momentum=0.9)
    found = []
    for images, labels in batches(dtype):
        loss = nn.functional.cross_entropy((called or network)(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


def apart(a, b):
    return float(((a - b).abs() / b.abs()).max())


@pytest.mark.parametrize("make", [chain, _resnet])
def test_the_loss_of_a_hundred_steps(make):
    torch.manual_seed(SEED)
    model = make()
    theirs = {dtype: losses(copy.deepcopy(model).to(dtype), dtype) for dtype in LIMIT}
    assert apart(theirs[torch.float32], theirs[torch.float64]) < 1e-4, "not well-conditioned"
    for dtype, limit in LIMIT.items():
        images, _ = next(batches(dtype))
        converted = lc.torch.convert(copy.deepcopy(model).to(dtype), images, strict=True)
        ours = losses(converted, dtype)
        print(make.__name__, dtype, "ours over PyTorch's", apart(ours, theirs[dtype]))
        assert apart(ours, theirs[dtype]) < limit, dtype
    assert ours[-10:].mean() < 0.75 * ours[:10].mean()  # it learns


def test_the_same_through_torch_compile():
    torch.manual_seed(SEED)
    model = chain().double()
    twin = copy.deepcopy(model)
    torch._dynamo.reset()
    ours = losses(model, torch.float64, torch.compile(model, backend=lc.torch.backend))
    assert apart(ours, losses(twin, torch.float64)) < LIMIT[torch.float64]
