"""A converted model inside PyTorch's own data parallelism."""

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from ..runtime.children import PATIENCE, environment  # noqa: E402

PROGRAM = Path(__file__).parent / "programs/distributed.py"


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_distributed_data_parallel(tmp_path):
    ranks = 2
    running = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(rank), str(ranks), tmp_path / "meeting"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        for process in running:
            out, errors = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0 and "right" in out, errors
    finally:
        for process in running:
            process.kill()
            process.wait()
