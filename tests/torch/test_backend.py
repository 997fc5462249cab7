"""``torch.compile`` with this library as its backend."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from torch import nn  # noqa: E402

import lowerconv as lc  # noqa: E402
from lowerconv.torch.backend import backend  # noqa: E402
from lowerconv.torch.convert import Converted  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not in lowerconv.*")
        yield


@pytest.fixture
def here(monkeypatch):
    """Return a list that grows with every part that has run here, to its end."""
    ran, run = [], Converted._run

    def noted(self, *args):
        results = run(self, *args)
        ran.append(self)
        return results

    monkeypatch.setattr(Converted, "_run", noted)
    return ran


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.cumsum(self.conv(x), 1)


def block():
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(inplace=True)),
        *(nn.MaxPool2d(2), nn.Flatten(1), nn.Linear(128, 5)),
    ).double()


def check(compiled, twin, x):
    ours, theirs = compiled(x), twin(x)
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    if theirs.requires_grad:
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for (name, p), q in zip(compiled.named_parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-8, atol=1e-8), name
    for p, q in zip(compiled.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(p, q)


def test_training_and_answers_with_any_batch(here):
    model = block()
    twin, compiled = copy.deepcopy(model), torch.compile(model, backend=backend)
    for batch in (4, 2, 3):
        check(compiled, twin, torch.randn(batch, 3, 8, 8).double())
    model.eval(), twin.eval()
    with torch.no_grad():
        for batch in (4, 2):
            check(compiled, twin, torch.randn(batch, 3, 8, 8).double())
        for net in (model, twin):
            net[0].weight.mul_(2)
        check(compiled, twin, torch.randn(2, 3, 8, 8).double())
    assert len(here) == 6  # each call, in one part: nothing has run elsewhere, told or not


def test_a_part_that_runs_elsewhere_is_noticed(here):
    """What the other tests rely on: then the warning is an error, and nothing is counted."""
    compiled = torch.compile(Odd().double(), backend=backend)
    with pytest.raises(UserWarning, match="cumsum"):
        compiled(torch.randn(2, 3, 8, 8).double())
    assert not here


def test_graph_breaks(here):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            x = self.first(x).relu()
            torch._dynamo.graph_break()
            return self.second(x).mean((1, 2, 3))

    model = Broken().double()
    twin = copy.deepcopy(model)
    check(torch.compile(model, backend=backend), twin, torch.randn(2, 3, 8, 8).double())
    assert len(here) == 2  # both parts


def test_what_is_not_ours_runs_where_it_was():
    model = Odd().double()
    twin = copy.deepcopy(model)
    warnings.filterwarnings("ignore", message=".*not in lowerconv.*")
    compiled = torch.compile(model, backend=backend)
    with pytest.warns(UserWarning, match=r"cumsum"):
        check(compiled, twin, torch.randn(2, 3, 8, 8).double())


def test_the_entry_point_has_it():
    assert lc.torch.backend is backend
