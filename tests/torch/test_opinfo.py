"""PyTorch's own samples of functions (OpInfo), by `convert` and `torch.compile`, with gradients.

Two of each function by default, one of them through ``torch.compile``; LOWERCONV_SAMPLES=3000 takes
the first so many, which are all.
"""

import os
import re
import warnings
from collections import Counter
from itertools import islice

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")
pytest.importorskip("expecttest", reason="needs expecttest, as PyTorch's samples do")

from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

import lowerconv as lc  # noqa: E402

SAMPLES = int(os.environ.get("LOWERCONV_SAMPLES", "2"))
STEP = 1 if "LOWERCONV_SAMPLES" in os.environ else 5  # neighbours are alike
SEED = 0
NAMES = (
    *("conv2d", "conv_transpose2d", "max_pool2d", "avg_pool2d", "batch_norm", "group_norm"),
    "interpolate",
)
OPERATORS = {
    f"{op.name.removeprefix('nn.functional.')} {op.variant_test_name}".strip(): op
    for op in op_db
    if op.name.removeprefix("nn.functional.") in NAMES
}
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}

# What may be refused, and why.
REFUSED = {
    "batch_norm": r"without items|no buffers, in training",
    "batch_norm without_cudnn": r"without items|no buffers, in training",
    "group_norm": r"without items",
}


class Call(torch.nn.Module):
    """A function of images; other tensors are parameters and buffers, or inputs like the images."""

    def __init__(self, function, sample, owned):
        super().__init__()
        self.function, self.owned = function, owned
        self.rest = dict(enumerate(sample.args)) | sample.kwargs
        self.places = [k for k, v in self.rest.items() if isinstance(v, torch.Tensor)]
        for place in self.places if owned else ():
            tensor = self.rest[place].detach().clone()
            if self.rest[place].requires_grad:
                self.register_parameter(f"t{place}", torch.nn.Parameter(tensor))
            else:
                self.register_buffer(f"t{place}", tensor)

    def forward(self, x, *given):
        if self.owned:
            given = [getattr(self, f"t{place}") for place in self.places]
        rest = self.rest | dict(zip(self.places, given, strict=True))
        args = [rest[k] for k in rest if isinstance(k, int)]
        return self.function(x, *args, **{k: v for k, v in rest.items() if isinstance(k, str)})


def outcome(net, tensors):
    """All that comes of a call: results, gradients, buffers."""
    given = [t.detach().clone().requires_grad_(t.requires_grad) for t in tensors]
    made = net(*given)
    results = made if isinstance(made, (tuple, list)) else (made,)
    weighted = [
        (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)).sum()
        for y in results
        if y.requires_grad
    ]
    if weighted:
        sum(weighted).backward()
    gradients = [t.grad for t in (*given, *net.parameters())]
    return [*(y.detach() for y in results), *gradients, *net.buffers()]


def chosen(op, dtype, count):
    torch.manual_seed(SEED)
    samples = enumerate(op.sample_inputs("cpu", dtype, requires_grad=True))
    return list(islice(samples, 0, count * STEP, STEP))


@pytest.mark.parametrize("name", OPERATORS)
def test_samples(name):
    op, counts = OPERATORS[name], Counter()
    for dtype, owned in ((torch.float64, True), (torch.float64, False), (torch.float32, True)):
        most = dtype == torch.float64 and owned
        for i, sample in chosen(op, dtype, SAMPLES if most else -(-SAMPLES // 2)):
            others = [v for v in (*sample.args, *sample.kwargs.values()) if torch.is_tensor(v)]
            tensors = (sample.input,) if owned else (sample.input, *others)
            if not owned and not others:
                continue
            what = f"{name}: sample {i} of seed {SEED}, {dtype}, {'owned' if owned else 'given'}"
            ours, theirs = (Call(op.op, sample, owned) for _ in range(2))
            try:
                found = outcome(lc.torch.convert(ours, tensors, strict=True), tensors)
            except lc.torch.UnsupportedError as error:
                assert re.search(REFUSED.get(name, "^$"), str(error)), f"{what}: {error}"
                counts["refused"] += 1
                continue
            counts["right"] += 1
            check(found, outcome(theirs, tensors), dtype, what)
    print(name, dict(counts))
    assert counts["right"]


def check(found, expected, dtype, what):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None), what
        if b is not None:
            limit = TOLERANCE[dtype]
            scale = max(1.0, float(b.abs().max())) if b.numel() else 1.0
            torch.testing.assert_close(
                *(a, b), rtol=limit, atol=limit * scale, msg=lambda m: f"{what}: {m}"
            )


@pytest.mark.parametrize("name", OPERATORS)
def test_samples_through_torch_compile(name):
    op, counts = OPERATORS[name], Counter()
    for i, sample in chosen(op, torch.float64, SAMPLES // 2 if SAMPLES < 4 else SAMPLES):
        ours, theirs = (Call(op.op, sample, True) for _ in range(2))
        what = f"{name}: sample {i} of seed {SEED}, through torch.compile"
        torch._dynamo.reset()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = outcome(torch.compile(ours, backend=lc.torch.backend), (sample.input,))
        left = [str(w.message) for w in told if "not in lowerconv" in str(w.message)]
        for reason in left:
            assert re.search(REFUSED.get(name, "^$"), reason), f"{what}: {reason}"
        counts["refused" if left else "right"] += 1
        check(found, outcome(theirs, (sample.input,)), torch.float64, what)  # either way
    print(name, dict(counts))
    assert counts["right"]
