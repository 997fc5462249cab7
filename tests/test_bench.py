"""The benchmarks run; what they measure is for people to read."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_algorithms():
    # The root is appended, so that the installed package is measured and not the source tree.
    code = (
        "import runpy, sys\n"
        f"sys.path.append({str(ROOT)!r})\n"
        "options = '--network cifar10_quick --batch 1 --threads 1'\n"
        "sys.argv = ['algorithms', *options.split()]\n"
        "runpy.run_module('bench.algorithms', run_name='__main__')\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    for text in ("cifar10_quick, batch 1, weight_grad", "geometric mean", "worst layer", "conv3"):
        assert text in run.stdout
