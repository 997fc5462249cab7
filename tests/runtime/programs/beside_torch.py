"""Convolves beside PyTorch, imported first or last: ``python beside_torch.py first``."""

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

ORDER = sys.argv[1]
if ORDER == "first":
    import torch

    torch.set_num_threads(2)
    torch.conv2d(torch.ones(4, 16, 32, 32), torch.ones(16, 16, 3, 3))  # its threads start

from convolutions import same, works  # noqa: E402

import lowerconv as lc  # noqa: E402

lc.set_num_threads(3)
WORKS = works(2 * len(lc.algorithms()))
EXPECTED = [work.run() for work in WORKS]

if ORDER == "last":
    import torch

    torch.set_num_threads(2)

PEER = [
    torch.conv2d(torch.from_numpy(w.x), torch.from_numpy(w.w), padding=w.padding) for w in WORKS
]
ROUNDS = 3
failures = []


def alike(y, right, algorithm="") -> bool:
    """Return whether PyTorch's results agree: their last bits depend on its threads."""
    return torch.allclose(y, right, rtol=0, atol=1e-3 if algorithm == "winograd" else 1e-4)


def ours() -> None:
    for _ in range(ROUNDS):
        for work, right in zip(WORKS, EXPECTED, strict=True):
            if not same(work.run(), right):
                failures.append(f"lowerconv: {work.algorithm}")


def theirs() -> None:
    for _ in range(ROUNDS):
        for work, right in zip(WORKS, PEER, strict=True):
            x, w = torch.from_numpy(work.x), torch.from_numpy(work.w).requires_grad_()
            y = torch.conv2d(x, w, padding=work.padding)
            y.backward(torch.from_numpy(work.dy))
            if not alike(y, right):
                failures.append("torch")


def in_turns() -> None:
    for work, right, other in zip(WORKS, EXPECTED, PEER, strict=True):
        mine = work.run()
        y = torch.conv2d(torch.from_numpy(work.x), torch.from_numpy(work.w), padding=work.padding)
        if not (same(mine, right) and alike(y, other)):
            failures.append(f"in turns: {work.algorithm}")
        if not alike(y, torch.from_numpy(mine[0]), work.algorithm):
            failures.append(f"differ: {work.algorithm}")


def counts() -> tuple[int, int]:
    return torch.get_num_threads(), lc.get_num_threads()


assert counts() == (2, 3)
in_turns()
assert counts() == (2, 3)
crew = [threading.Thread(target=work) for work in (ours, theirs, ours, theirs, in_turns)]
for thread in crew:
    thread.start()
for thread in crew:
    thread.join()
assert counts() == (2, 3)
torch.set_num_threads(1)
assert lc.get_num_threads() == 3
in_turns()
lc.set_num_threads(2)
assert torch.get_num_threads() == 1
in_turns()
print(failures or "right")
