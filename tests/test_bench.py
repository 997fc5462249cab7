"""The benchmarks of the source tree run; what they measure is for people to read."""

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PEERS = ("torch", "onnxruntime", "onnx")


def python(code: str) -> str:
    """Return what a program prints that can import `bench`."""
    # The root is appended, so that the installed package is measured and not the source tree.
    code = f"import sys\nsys.path.append({str(ROOT)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run(module: str, options: str, absent: tuple[str, ...] = ()) -> str:
    """Return what a module prints; importing those that are `absent` fails there."""
    return python(
        "import runpy\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = [{module!r}, *{options.split()!r}]\n"
        f"runpy.run_module({module!r}, run_name='__main__')\n"
    )


@pytest.fixture
def bench(monkeypatch):
    """Make `bench` importable: it is not installed."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def test_compare_without_peers(tmp_path):
    file = tmp_path / "times.json"
    printed = run(
        "bench.compare",
        "--network cifar10_quick alexnet_owt --layers conv[13]$ --at 1,1 --seconds 0.01 "
        f"--algorithms auto direct --save {file}",
        absent=PEERS,
    )
    for text in (
        "onnxruntime: onnxruntime, onnx not installed, skipped (pip install lowerconv[bench])",
        "cifar10_quick, 1 thread, batch 1, weight_grad: auto",
        "lowering",
        "geometric mean",
        "worst layer",
        "layers above 50 MFLOP that reach 92%",
    ):
        assert text in printed
    assert "best peer" not in printed
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 2 * 3 * 2
    assert all(set(row["ratios"]) == {"direct", "lowering"} for row in rows)


def test_functions_are_compared_as_well():
    printed = run(
        "bench.compare",
        "--network odd --layers ^stride --at 1,2 --seconds 0.01 --call function --no-lowering "
        "--passes forward --warm",
        absent=PEERS,
    )
    assert "stride-2x1" in printed
    assert "lowering" not in printed


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="the peers are not installed")
def test_peers_compute_the_same():
    # `compare` raises where they do not.
    printed = run(
        "bench.compare",
        "--network odd --layers ^(dilated-uneven|stride-2x1|depthwise-x2)$ --at 1,1 --seconds 0.01",
    )
    assert "best peer" in printed


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="the peers are not installed")
def test_pytorch_keeps_to_its_threads():
    printed = python(
        "import torch\n"
        "from bench import peers\n"
        "from lowerconv.bench.cases import layers\n"
        "from lowerconv.bench.passes import operands, plan_for\n"
        "layer = layers('cifar10_quick')[2]\n"
        "arrays = operands(layer, 1, 'forward')\n"
        "peers.peer('torch_nchw', layer, 1, 'forward', 1, *arrays)\n"
        "plan_for(layer, 1, 'forward', 'auto')(*arrays)\n"
        "print(torch.get_num_threads())\n"
    )
    assert printed.split() == ["1"]


@pytest.mark.skipif(
    not importlib.util.find_spec("pytest_benchmark"), reason="pytest-benchmark is not installed"
)
def test_suite_under_pytest_benchmark():
    options = "--network cifar10_quick --layers conv3 --at 1,1 --passes forward --benchmark-disable"
    printed = run("pytest", f"{ROOT}/bench/test_layers.py -v {options}", absent=PEERS)
    assert "cifar10_quick-conv3-forward-1,1-lowering" in printed
    assert "2 passed" in printed
    assert "torch_nchw: torch not installed, skipped" in printed


@pytest.mark.skipif(
    not importlib.util.find_spec("pytest_benchmark"), reason="pytest-benchmark is not installed"
)
def test_tables_under_pytest_benchmark():
    files = [f"{ROOT}/bench/test_{table}.py" for table in ("cifar10", "threads", "training")]
    options = "--layers ^conv3$ --batch 1 --threads 1 --benchmark-disable"
    printed = run("pytest", f"{' '.join(files)} -v {options}", absent=PEERS)
    for test in (
        "test_cifar10[cifar10_quick-conv3-backward-direct]",
        "test_threads[cifar10_quick-fused-conv3-forward-1]",
        "test_training[lenet-1-lowering]",
    ):
        assert test in printed
    assert "failed" not in printed


def test_tables_of_a_peer_without_gradients(bench):
    from rich.console import Console

    from bench.candidates import Setting
    from bench.tables import Row, layer_table, summary_table

    def row(op: str, **taken: list[float]) -> Row:
        return Row("net", Setting(2, 8), op, f"{op}-layer", 10**9, 1e11, 0.5, taken)

    rows = [
        row("weight_grad", auto=[0.02, 0.02]),
        row("forward", auto=[0.01, 0.01], onnxruntime=[0.03, 0.02]),
    ]
    console = Console(width=100, file=io.StringIO())
    for table in (layer_table(rows[:1]), layer_table(rows[1:]), summary_table(rows)):
        console.print(table)
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "weight_grad-layer 1,000 50 50" in lines
    assert "forward-layer 1,000 100 100 2.50 ORT" in lines
    assert "net 2,8 weight_grad - 0 of 1" in lines
    assert "net 2,8 forward 2.50 (2.50) 1 of 1" in lines
    assert "measure again, other processes were at work during: forward-layer" in lines


def test_costs_of_calls_and_the_layers_of_googlenet():
    printed = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bench.costs import calls, googlenet_layers\n"
            "print(len(list(googlenet_layers())))\n"
            "for what, cost in calls(): print(what, cost)\n",
        ],
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    count, *lines = printed.splitlines()
    assert int(count) == 57
    assert len(lines) == 2 and all(line.endswith(" us") for line in lines)


def test_types():
    printed = run("bench.types", "--k 8 --rounds 1")
    for text in ("float32", "bf16", "f16", "s8 x u8", "s8 x s8", "share"):
        assert text in printed


def test_frames():
    printed = run("bench.stream", "--sizes 72x64 --frames 4 --rounds 1")
    assert "72x64" in printed and "p99/p50" in printed
    rows = [line.split() for line in printed.splitlines() if line.strip().startswith("trunk")]
    assert [row[0] for row in rows] == ["trunk", "trunk-int8"]
    assert rows[0][-1] == "1.00"


def test_a_network_that_threads_share():
    printed = run(
        "bench.shared_network", "--models lenet --batches 2 --rounds 1 --seconds 0.05", absent=PEERS
    )
    assert "| lenet, 2 | `net(x)` | " in printed
    assert "| lenet, 2 | `net.compile(...)` | " in printed


def test_onnx_files(tmp_path):
    pytest.importorskip("onnx", reason="reads ONNX files")
    pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime")
    import numpy as np
    from onnx import helper

    from tests.onnx.networks import model_of, small_model

    node = helper.make_node
    light = [
        node("ConstantOfShape", ["shape"], ["w"]),
        node("Conv", ["x", "w"], ["c"]),
        node("Flatten", ["c"], ["f"]),
        node("Softmax", ["f"], ["y"]),
    ]
    model = model_of(light, {"x": [1, 3, 6, 6]}, ["y"], {"shape": np.array([4, 3, 3, 3])})
    (tmp_path / "light.onnx").write_bytes(model.SerializeToString())
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as wheel:
        content = small_model(np.random.default_rng(1)).SerializeToString()
        wheel.writestr("package/small.onnx", content)
    (tmp_path / "damaged.onnx").write_text("this is no model")
    np.savez(tmp_path / "small.npz", x=np.ones((2, 3, 12, 12), np.float32))
    arguments = f"bench.onnx_files {tmp_path} --rounds 1 --seconds 0.01 --threads 1"
    printed = python(
        "import runpy, sys\n"
        f"sys.argv = {arguments.split()!r}\n"
        "try:\n    runpy.run_module('bench.onnx_files', run_name='__main__')\n"
        "except SystemExit as error:\n    print('status', error.code)\n"
    )
    assert re.search(r"^  light +1x3x6x6 +\d\.\de-0[678] +[\d.]+ +[\d.]+", printed, re.M)
    assert re.search(r"^  small +2x3x12x12 +\d\.\de-0[678] ", printed, re.M)
    assert "damaged: " in printed and "geometric mean" in printed and "status 1" in printed


NETWORK_ROW = {
    "model": "lenet",
    "batch": 4,
    "peak": 1e9,
    "flops": 10**7,
    "seconds": {"lowerconv": [0.02, 0.02], "convert": [0.03, 0.03], "torch_nchw": [0.06, 0.05]},
}


def test_tables_of_networks(bench):
    from rich.console import Console

    from bench.networks import table_of

    alone = {"convert": [0.02, 0.02], "torch_nchw": [0.06, 0.05]}
    rows = [NETWORK_ROW, {**NETWORK_ROW, "model": "mobilenet_v2", "seconds": alone}]
    console = Console(width=100, file=io.StringIO())
    for shown in (rows, rows[1:]):
        console.print(table_of(shown, "training"))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "lenet, 4 200.0 20.00 50% 1.50 2.75" in lines
    assert "mobilenet_v2, 4 200.0 20.00 50% ours 2.75" in lines
    assert "mobilenet_v2, 4 200.0 20.00 50% 2.75" in lines


def test_networks_without_peers():
    options = "--models lenet --batches 1 --rounds 1 --seconds 0.01 --threads 1"
    printed = run("bench.networks", options, absent=(*PEERS, "openvino"))
    assert len(re.findall(r"^ +lenet, 1 +[\d,.]+ +[\d,.]+ +\d+% *$", printed, re.M)) == 4


def test_networks_beside_all_that_are_installed(bench):
    for module in (*PEERS, "openvino"):
        pytest.importorskip(module, reason="the peers are not installed")
    from bench.network_peers import CANDIDATES, available, flops

    kept = [name for name in CANDIDATES["inference"] if name != "torch_compile"]
    assert available("inference", "mobilenet_v2") == list(CANDIDATES["inference"][1:])
    options = "--models lenet --batches 2 --rounds 1 --seconds 0.01 --threads 1"
    printed = run("bench.networks", f"{options} --candidates {' '.join(kept)}")
    cells = r" +[\d.]+" * 5
    assert re.search(rf"^ +lenet, 2 +[\d,.]+ +[\d.]+ +\d+%{cells} *$", printed, re.M)
    # Multiply-adds as the paper counts them: 300 million.
    assert flops("mobilenet_v2", 1, "inference") == 2 * 300_774_272


def test_costs_of_other_libraries(tmp_path):
    for module in ("torch", "onnx"):
        pytest.importorskip(module, reason="packages of other libraries are not installed")
    import numpy as np
    from onnx import helper

    from tests.onnx.networks import model_of

    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2])]
    weights = {"w": np.ones((2, 3, 3, 3), np.float32)}
    model = model_of(nodes, {"x": [1, 3, "h", "w"]}, ["y"], weights)
    (tmp_path / "any.onnx").write_bytes(model.SerializeToString())
    sizes = f"sizes {tmp_path}/any.onnx --count 3 --most 384"
    printed = run("bench.interop", f"calls starts --model lenet --threads 1 {sizes}")
    times = r"[\d.]+ us, -?[\d.]+ beyond the [\d.]+ of"
    assert len(re.findall(rf"{times} the program", printed)) == 3
    assert len(re.findall(rf"{times} torch.nn.Conv2d", printed)) == 2
    assert len(re.findall(r"lenet from ONNX, .*[\d.]+ s: load", printed)) == 2
    assert printed.count("planning: ") == printed.count("memory: ") == 2
