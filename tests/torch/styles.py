"""Modules in styles of others: each does one thing that a conversion could get wrong."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


class GlobalResponse(nn.Module):
    """ConvNeXt-v2: norms over pixels, channels last, a layer norm spelt out, layer scale."""

    def __init__(self):
        super().__init__()
        self.stem, self.dw = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.a, self.b, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)
        self.gain, self.scale = nn.Parameter(torch.rand(16)), nn.Parameter(0.1 * torch.ones(8))

    def forward(self, x):
        x = self.stem(x)
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        y = F.gelu(self.a(self.dw(x).permute(0, 2, 3, 1)))
        norm = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
        y = y + self.gain * (y * norm / (norm.mean(-1, keepdim=True) + 1e-6))
        return self.head((x + (self.b(y) * self.scale).permute(0, 3, 1, 2)).mean([-2, -1]))


class AttentionPool(nn.Module):
    """Queries that are learnt, einsum, a token of its own, positions."""

    def __init__(self):
        super().__init__()
        self.patch, self.keys = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)
        self.query, self.token = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.randn(65, 8))

    def forward(self, x):
        x = self.patch(x)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h * w).permute(0, 2, 1)
        x = torch.cat([self.token.expand(b, -1, -1), x], 1) + self.position[: h * w + 1]
        weights = torch.einsum("qc,bnc->bqn", self.query, self.keys(x)) / math.sqrt(c)
        return torch.einsum("bqn,bnc->bqc", weights.softmax(-1), x)


class Norms(nn.Module):
    """Weight norm, standardised filters, unit vectors, root mean squares, spreads."""

    def __init__(self):
        super().__init__()
        self.a = parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
        self.filters, self.rms = nn.Parameter(torch.randn(4, 8, 3, 3)), nn.RMSNorm(4)

    def forward(self, x):
        w = self.filters - self.filters.mean((1, 2, 3), keepdim=True)
        w = w / (w.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        y = F.conv2d(F.elu(self.a(x)), w)
        z = self.rms(F.normalize(y, dim=1).permute(0, 2, 3, 1))
        return z.std((1, 2)), torch.logsumexp(y, 1), y.var(1), F.glu(y, 1).flip(-1)


class Gates(nn.Module):
    """Masks and comparisons, tensors as attributes."""

    def __init__(self):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 4, 3), torch.full((1,), 2.0, dtype=torch.float64)

    def forward(self, x):
        y = self.conv(x) * self.factor
        y = torch.where(y > 1, y * 2, y) * (y >= -1).to(y.dtype)
        return y.masked_fill(y < 0.1, 0.0), F.logsigmoid(y)


class Averages(nn.Module):
    """Buffers that forward changes: in place without gradients, assigned, counted."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("slow", torch.zeros(4))
        self.register_buffer("fast", torch.zeros(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("twice", torch.zeros(1))

    def forward(self, x):
        y = self.conv(x)
        self.calls += 1
        self.twice.add_(2.0)
        if self.training:
            with torch.no_grad():
                self.slow.mul_(0.9).add_(0.1 * y.mean((0, 2, 3)))
            self.fast = 0.5 * self.fast + 0.5 * y.detach().mean((0, 2, 3))
        return y - self.slow[:, None, None] * self.fast[:, None, None]


class NoGradients(nn.Module):
    """A part without gradients, whose parameters have none; a result without."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        with torch.no_grad():
            y = self.a(x)
        z = self.a(x).detach().reshape(x.shape[0], 4, -1)
        return self.b(y + z.view_as(y)), z


class Control(nn.Module):
    """Control flow on shapes: what a batch of 3 does is another thing than what one of 2 does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        y = self.a(x)
        for _ in range(x.shape[0]):
            y = y + 0.5
        if x.shape[-2] > 16:
            y = F.avg_pool2d(y, 2)
        return self.b(y)


class Shared(nn.Module):
    """A block that is called twice, and a weight in two layers."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(True))
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.block[0].weight

    def forward(self, x):
        return self.tied(self.block(self.block(x)))


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


class Structures(nn.Module):
    """Arguments by name, in a dict; results in a structure, with the input among them."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x, *, mask=None, scale=1.0, features=None):
        y = self.conv(x) * scale
        if mask is not None:
            y = y * mask
        if features is not None:
            y = y + self.fc(features["a"])[:, :, None, None]
        return {"p": [y, (y.relu(), 3)], "n": None, "t": Pair(y.sum(), y.mean()), "x": x}


class Checkpointed(nn.Module):
    """Activations that are computed again."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.b = nn.Conv2d(4, 4, 3)

    def forward(self, x):
        return self.b(checkpoint(self.a, x, use_reentrant=False))


class Counting(nn.Module):
    """An attribute of Python that forward changes."""

    def __init__(self):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 4, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x) * self.calls


class Depth(nn.Module):
    """Stochastic depth: whole images are left out at random."""

    def __init__(self):
        super().__init__()
        self.conv, self.p = nn.Conv2d(3, 4, 1), 0.5

    def forward(self, x):
        y = self.conv(x)
        if not self.training:
            return y
        kept = y.new_empty((y.shape[0], 1, 1, 1)).bernoulli_(1 - self.p)
        return y * kept / (1 - self.p)


STYLES = (
    *(GlobalResponse, AttentionPool, Norms, Gates, Averages, NoGradients, Control, Shared),
    *(Structures, Checkpointed),
)
