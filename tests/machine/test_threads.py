"""The number of threads: set, read, refused; and what happens to the environment."""

import os
import subprocess
import sys

import pytest

import lowerconv as lc


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


def test_what_is_set_is_used():
    lc.set_num_threads(1)
    assert lc.get_num_threads() == 1
    assert lc.plan_conv2d((1, 1, 4, 4), (1, 1, 3, 3)).threads == 1


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (0, ValueError),
        (-1, ValueError),
        (10**6, ValueError),
        (1.5, TypeError),
        (True, TypeError),
        ("2", TypeError),
    ],
)
def test_nonsense_is_refused_by_name(n, kind):
    before = lc.get_num_threads()
    with pytest.raises(kind, match=r"^n: got"):
        lc.set_num_threads(n)
    assert lc.get_num_threads() == before


def child(code: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


CONVOLVE = (
    "import os, numpy as np, lowerconv as lc\n"
    "y = lc.conv2d(np.ones((1, 3, 8, 8), 'f4'), np.ones((2, 3, 3, 3), 'f4'))\n"
)


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_every_threading_layer_computes(layer):
    import importlib

    if layer == "omp":
        pytest.importorskip("numba.np.ufunc.omppool", exc_type=ImportError)
    importlib.invalidate_caches()
    code = CONVOLVE + "import numba\nprint(y.min(), y.max(), numba.threading_layer())"
    assert child(code, NUMBA_THREADING_LAYER=layer) == f"27.0 27.0 {layer}"


def test_more_threads_than_cores():
    code = "import lowerconv as lc\nlc.set_num_threads(7)\n" + CONVOLVE + "print(y.min(), y.max())"
    assert child(code, NUMBA_NUM_THREADS="7") == "27.0 27.0"


def test_the_environment_is_left_as_it_was():
    code = CONVOLVE + "print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "None"


def test_a_second_process_compiles_nothing(tmp_path):
    code = (
        "import numba.core.event as event\n"
        "compiled = []\n"
        "class Listener(event.Listener):\n"
        "    def on_start(self, e): compiled.append(e)\n"
        "    def on_end(self, e): pass\n"
        "event.register('numba:compile', Listener())\n"
        + CONVOLVE
        + "lc.conv2d_input_grad(y, np.ones((2, 3, 3, 3), 'f4'), (1, 3, 8, 8))\n"
        "lc.conv2d_weight_grad(y, np.ones((1, 3, 8, 8), 'f4'), (2, 3, 3, 3))\n"
        "print(len(compiled))"
    )
    first = int(child(code, NUMBA_CACHE_DIR=str(tmp_path)))
    assert first > 0
    assert int(child(code, NUMBA_CACHE_DIR=str(tmp_path))) == 0
