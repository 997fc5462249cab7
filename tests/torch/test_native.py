"""Modules of PyTorch as networks of ours: named as before, trained by `Trainer` on three ranks."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import lowerconv as lc  # noqa: E402
from lowerconv.nn.loss import softmax_cross_entropy  # noqa: E402
from lowerconv.nn.optim import SGD  # noqa: E402
from lowerconv.nn.step import Step  # noqa: E402
from lowerconv.train import Trainer  # noqa: E402

PROGRAM = Path(__file__).parent / "programs/trained.py"


class Net(nn.Module):
    """Parts of all kinds: parameters of its own, a buffer, branches, several norms."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
        self.block, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.GroupNorm(2, 4)
        self.gamma = nn.Parameter(0.5 * torch.ones(4, 1, 1))
        self.register_buffer("fixed", torch.linspace(0, 1, 4).reshape(4, 1, 1))
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.gamma * self.norm(self.block(x)) + self.fixed
        return self.fc(x.mean((2, 3)))


def make():
    torch.manual_seed(4)
    return Net().double(), torch.randn(6, 3, 5, 5).double(), torch.arange(6) % 5


def test_it_learns_what_the_module_would():
    model, x, labels = make()
    twin = copy.deepcopy(model)
    network = lc.torch.to_native(model, x[:1])
    learnt = {*network.parameters(), *network.buffers()}
    expected = {n for n in model.state_dict() if not n.endswith(("num_batches_tracked", "fixed"))}
    assert learnt == expected - {"gamma"} | {"gamma.weight"}
    ours = SGD(network, lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    for count in (6, 4, 6):
        scores = network.run(x[:count].numpy(), Step(training=True))
        network.backward(softmax_cross_entropy(scores, labels[:count].numpy()).gradient)
        ours.step()
        theirs.zero_grad()
        nn.functional.cross_entropy(twin(x[:count]), labels[:count]).backward()
        theirs.step()
    before = model.fc.weight.clone()
    assert network.write_back() is model
    assert not torch.equal(before, model.fc.weight)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        if "num_batches" not in name:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)
    model.eval(), twin.eval()
    torch.testing.assert_close(torch.from_numpy(network(x[:1].numpy())), twin(x[:1]))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert other.model is not model
        np.testing.assert_array_equal(other(x.numpy()), network(x.numpy()))
    assert not model.training


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(self.conv(x))


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) if self.training else self.conv(x).relu()


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x), x


@pytest.mark.parametrize(
    "model, reason",
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)).eval(), "in evaluation; expected training"),
        (nn.Sequential(nn.Conv2d(3, 4, 1)).requires_grad_(False), "not learnt: 0.weight, 0.bias"),
        (Shared(), "several places: .*conv.weight"),
        (Other(), "in evaluation it does something else"),
        (Pair(), "something else than one tensor"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)), "no parameters"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Unflatten(0, (2, -1))), "unflatten"),
    ],
)
def test_what_would_not_be_the_same_is_refused(model, reason):
    with pytest.raises(lc.torch.UnsupportedError, match=reason):
        lc.torch.to_native(model, torch.ones(2, 3, 4, 4))


def test_arguments():
    model, x, _ = make()
    network = lc.torch.to_native(model, x)
    with pytest.raises(TypeError, match="x: got dtype float32"):
        network(x.float().numpy())
    with pytest.raises(ValueError, match="x: got shape"):
        network(x[:, :2].numpy())
    with pytest.raises(TypeError, match="example: got int"):
        lc.torch.to_native(model, 3)
    with pytest.raises(TypeError, match=r"model: got Net, .*to_native"):
        Trainer(model, "fashion-mnist")


def test_three_ranks_resume(mpiexec, tmp_path):
    done = mpiexec(3, "-m", "mpi4py", PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr
    whole, parts = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and "7.weight" in whole
    for name, array in whole.items():
        assert np.array_equal(array, parts[name]), name
        assert np.isfinite(array).all(), name
