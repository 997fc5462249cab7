"""Train a network of PyTorch on all ranks: at a stretch, and resumed.  python trained.py OUT"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import lowerconv as lc
from lowerconv.data import Dataset
from lowerconv.parallel.options import ParallelOptions
from lowerconv.train import Trainer
from lowerconv.train.progress import Reporter


def network():
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.SiLU(), nn.MaxPool2d(2)),
        *(nn.Dropout(0.2), nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 3)),
    )
    return lc.torch.to_native(model, torch.ones(4, 1, 8, 8))


# Which way of adding up is fastest is measured otherwise, and each rounds in its own way.
PARALLEL = ParallelOptions("data", allreduce="ring")


def fit(out, **settings):
    rng = np.random.default_rng(2)
    images = rng.integers(0, 255, (32, 1, 8, 8), np.uint8)
    labels = rng.integers(0, 3, 32)
    names = ("a", "b", "c")
    # The last batch has fewer images than there are ranks: some have none.
    train = Dataset("made up", images[:25], labels[:25], names)
    test = Dataset("made up", images[25:], labels[25:], names)
    trainer = Trainer(
        network(),
        (train, test),
        out,
        batch=12,
        lr=0.05,
        schedule="constant",
        seed=1,
        parallel=PARALLEL,
        reporter=Reporter(),
        **settings,
    )
    trainer.fit()
    return trainer


out = Path(sys.argv[1])
whole = fit(out / "whole", epochs=3)
fit(out / "parts", epochs=1)
parts = fit(out / "parts", epochs=3, resume=True)
if whole.communicator.rank == 0:
    for name, trainer in (("whole", whole), ("parts", parts)):
        model = trainer.network.write_back()
        arrays = {k: v.detach().numpy() for k, v in model.state_dict().items()}
        np.savez(out / f"{name}.npz", **arrays)
