"""What a step takes of the process's memory: what the report says, and nothing new after that."""

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.nn.models import MODELS

STATUS = Path("/proc/self/status")

PROGRAM = """
import re
import sys
from pathlib import Path
import numpy as np
from lowerconv import nn

def kib(field):
    return int(re.search(field + r":\\s*([0-9]+)", Path("/proc/self/status").read_text())[1])

network = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(),
    nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
)
step = nn.Step(training=True)

def train(images):
    network.backward(np.ones_like(network.run(images, step)))

train(np.ones((1, 3, 112, 112), np.float32))  # compiles
images = np.ones((24, 3, 112, 112), np.float32)
dy = np.ones((24, 32, 56, 56), np.float32)
before = kib("VmRSS")
network.run(images, step)
network.backward(dy)
print((kib("VmHWM") - before) * 1024, network.memory_report(images.shape).arena)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="the peak is read from Linux's /proc")
def test_the_process_grows_by_what_the_report_says():
    made = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300
    )
    assert made.returncode == 0, made.stderr
    grown, arena = map(int, made.stdout.split())
    print(f"grown by {grown:,} bytes, an arena of {arena:,}")
    assert arena > 80 * 2**20
    assert 0.9 * arena < grown < 1.1 * arena


@pytest.mark.parametrize("model", ["cifar10_quick", "resnet20"])
def test_steady_steps_make_no_arrays(model):
    network = MODELS[model].build()
    optimizer = nn.SGD(network, lr=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((16, 3, 32, 32), np.float32)
    labels = rng.integers(10, size=16)

    def train() -> None:
        loss = nn.softmax_cross_entropy(network.run(images, nn.Step(training=True)), labels)
        network.backward(loss.gradient)
        optimizer.step()

    for _ in range(2):
        train()
    tracemalloc.start()
    train()
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(3):
        train()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{after - before:,} bytes more after three steps, {peak - before:,} at most")
    # The largest result of a layer has a megabyte or two: what there is are buffers of NumPy loops.
    assert after - before < 20_000
    assert peak - before < 200_000
