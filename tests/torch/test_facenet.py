"""The three networks of MTCNN with their own weights, from a package that nobody here wrote.

pip install --no-deps --target DIR facenet-pytorch==2.6.0
PYTHONPATH=DIR pytest tests/torch/test_facenet.py

torchvision, which the package imports for its pictures, is not needed: its networks are one file.
"""

import importlib.util
import sys
import types
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

import lowerconv as lc  # noqa: E402

FOUND = importlib.util.find_spec("facenet_pytorch")
if FOUND is None or FOUND.origin is None:
    pytest.skip("needs the package facenet-pytorch 2.6.0", allow_module_level=True)

SIZES = {"PNet": [(4, 3, 96, 128), (1, 3, 57, 71)], "RNet": [(4, 3, 24, 24)]}
SIZES["ONet"] = [(4, 3, 48, 48), (1, 3, 48, 48)]


@pytest.fixture(scope="module")
def networks():
    """The module of the networks, without what it imports for pictures."""
    folder = Path(FOUND.origin).parent / "models"
    name = "facenet_networks"
    stub = types.ModuleType(f"{name}.utils.detect_face")
    stub.detect_face = stub.extract_face = None
    packages = {f"{name}.utils": types.ModuleType(f"{name}.utils"), stub.__name__: stub}
    spec = importlib.util.spec_from_file_location(
        name, folder / "mtcnn.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules.update({**packages, name: module})
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        for key in (*packages, name):
            del sys.modules[key]


def pictures(shape, dtype):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(shape, generator=draw, dtype=torch.float64).clamp(-1, 1).to(dtype)


def near(a, b, limit, what=""):
    scale = max(1.0, float(b.detach().abs().max()))
    assert a.shape == b.shape and float((a - b).detach().abs().max()) <= limit * scale, what


def check(ours, theirs, x, limit):
    """Compare results and gradients; those in float64 alone, where no choice is by a rounding."""
    results = ours(x), theirs(x)
    for a, b in zip(*results, strict=True):
        near(a, b, limit)
    assert torch.equal(results[0][-1].argmax(1), results[1][-1].argmax(1))  # face or not
    if x.dtype == torch.float32:
        return
    for net, found in zip((ours, theirs), results, strict=True):
        net.zero_grad()
        sum(y.square().sum() for y in found).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        near(p.grad, q.grad, limit, name)


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("way", ["convert", "compile"])
@pytest.mark.parametrize("name", SIZES)
def test_networks(networks, name, way, dtype, limit):
    model, twin = (getattr(networks, name)().to(dtype) for _ in range(2))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*not in lowerconv.*")
        if way == "convert":
            ours = lc.torch.convert(model, pictures(SIZES[name][0], dtype), strict=True)
        else:
            torch._dynamo.reset()
            ours = torch.compile(model, backend=lc.torch.backend)
        for shape in SIZES[name]:
            check(ours, twin, pictures(shape, dtype), limit)
