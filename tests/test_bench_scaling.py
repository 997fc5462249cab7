"""Scaling runs: what is emulated, what tables say, hosts; times are for people to read."""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(__file__).parent / "parallel" / "programs"


@pytest.fixture(autouse=True)
def bench(monkeypatch):
    """Make `bench` importable: it is not installed."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def run(module: str, *options: object) -> list[str]:
    """Return arguments of python that run a module of `bench`."""
    return [
        "-c",
        f"import runpy, sys; sys.path.append({str(ROOT)!r}); "
        f"sys.argv = [{module!r}, *{[str(o) for o in options]!r}]; "
        f"runpy.run_module({module!r}, run_name='__main__')",
    ]


def run_free(arguments: list[str]):
    """Run python on arguments, with the root of the source tree on its path."""
    environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


# --- emulation ---


def network() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 3 * 3, 10)
    )
    net.initialize(np.random.default_rng(0))
    return net


CONV = 2 * 5 * 4 * 6 * 6 * 3 * 3 * 3  # flops of 5 images
LINEAR = 2 * 5 * 10 * 36
POOL = 4 * 5 * (4 * 6 * 6 + 4 * 3 * 3)  # bytes


def test_layers_take_the_time_that_was_stated():
    from bench.emulated import Machine, emulate

    machine, net = Machine(gflops=2.0, gbytes=0.5), network()
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    told = []
    net.register_watch(lambda layer, frame, phase: told.append((type(layer).__name__, phase)))
    emulate([net], machine)
    scores = net.run(x, nn.Step(training=True))
    forward = (CONV + LINEAR) / 2e9 + POOL / 0.5e9
    assert machine.computed == pytest.approx(forward)
    net.backward(np.ones_like(scores))
    # Of the first convolution nobody wants the gradient of the images.
    backward = (CONV + 2 * LINEAR) / 2e9 + POOL / 0.5e9
    assert machine.computed == pytest.approx(forward + backward)
    assert told == [
        *((kind, "forward") for kind in ("Conv2d", "MaxPool2d", "Flatten", "Linear")),
        *((kind, "backward") for kind in ("Linear", "Flatten", "MaxPool2d", "Conv2d")),
    ]


def test_nothing_is_computed():
    from bench.emulated import SGD, Machine, emulate

    machine, net = Machine(1e6, 1e6), network()
    x = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    optimizer = SGD(net, 0.1, 0.9)
    emulate([net], machine)
    optimizer.machine = machine
    optimizer.grad[:] = 3
    before = optimizer.data.copy()
    scores = net.run(x, nn.Step(training=True))
    assert not scores.any()
    net.backward(np.ones_like(scores))
    optimizer.step()
    assert (optimizer.grad == 3).all()
    assert np.array_equal(optimizer.data, before)


def test_a_program_that_was_there_before_sleeps_too():
    from bench.emulated import Machine, Sleeping, emulate

    machine, net = Machine(1e6, 1e6), network()
    x = np.zeros((5, 3, 8, 8), np.float32)
    net.run(x, nn.Step(training=True))
    emulate([net], machine)
    for _ in range(2):
        net.run(x, nn.Step(training=True))
    (program,) = net._use.own.execution.programs.values()
    assert all(isinstance(layer, Sleeping) for layer, _ in program.steps)
    assert not any(isinstance(layer.original, Sleeping) for layer, _ in program.steps)


def test_sleeps_add_up_and_still_ones_take_no_time():
    from bench.emulated import Machine

    machine = Machine(1.0, 1.0)
    begin = time.perf_counter()
    for _ in range(1000):
        machine.compute(30e-6)
    taken = time.perf_counter() - begin
    # Alone, each sleep would be twice as long as it was asked to be.
    assert taken > 0.029
    machine.still = True
    machine.compute(100.0)
    assert machine.computed == pytest.approx(0.03)


def test_layers_that_communicate_go_on():
    from bench.emulated import Machine, emulate

    class Sends(nn.Layer):
        def result_shape(self, *shapes):
            return shapes[0]

        def compute(self, frame, step):
            frame.y.array[...] = 7

    net = nn.Sequential(nn.Linear(6, 4), Sends())
    Sends.__module__ = "lowerconv.parallel.sharding.collective_layers"
    emulate([net], Machine(1e6, 1e6))
    assert (net.run(np.ones((2, 6), np.float32)) == 7).all()


def test_emulated_steps_send_what_real_ones_do(mpiexec):
    done = mpiexec(3, PROGRAMS / "emulated.py", ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done") == 3


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan")])
def test_a_machine_has_a_speed(wrong):
    from bench.emulated import Machine

    with pytest.raises(ValueError, match="gflops"):
        Machine(wrong, 1.0)
    with pytest.raises(ValueError, match="gbytes"):
        Machine(1.0, wrong)


# --- settings ---


def test_settings_go_to_the_strategies_that_have_them():
    from bench.scaling import options_for

    settings = ["owt_scheme=b", "overlap=none", "bucket_mib=0.5"]
    owt, tree = options_for("owt", settings), options_for("tree", settings)
    assert (owt.owt_scheme, owt.overlap, owt.bucket_mib) == ("b", "none", 0.5)
    assert (tree.owt_scheme, tree.overlap) == ("c", "none")
    for wrong in ("owt_scheme", "colour=red"):
        with pytest.raises(ValueError, match=f"set: got '{wrong}'"):
            options_for("owt", [wrong])


# --- results ---


def result(ranks: int, rows: list[dict], **facts: object) -> dict:
    return {
        "cpu": "a CPU", "cores": 4, "threads": 1, "ranks": ranks, "ranks_here": ranks, "hosts": 1,
        "gbit": None, "mpi": "", "scaling": "weak", "emulated": None, "set": [], "others": 0.0,
        "results": rows, **facts,
    }  # fmt: skip


def row(name: str, batch: int, seconds: list[float], waits: float = 0.0, still: float = 0.0):
    return {
        "model": "net",
        "parallel": name,
        "how": "",
        "batch": batch,
        "in_turns": True,
        "turns": [{"seconds": s, "waits": waits, "sent": 3e6} for s in seconds],
        "still": [{"seconds": still, "waits": still, "sent": 3e6}] * bool(still),
    }


def test_table_from_saved_files(tmp_path):
    one = result(1, [row("alone", 8, [0.10, 0.10, 0.10])])
    first = result(2, [row("alone", 8, [0.11]), row("data", 16, [0.125], 0.01, 0.04)])
    more = result(2, [row("alone", 8, [0.11] * 2), row("data", 16, [0.125] * 2, 0.01, 0.04)])
    emulated = result(8, [row("owt", 64, [0.5], 0.0, 0.1)], emulated=[200.0, 10.0])
    files = []
    for name, results in (("a", [one, first]), ("b", [more, emulated])):
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps(results))
    done = run_free(run("bench.scaling", "--table", *files))
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "net one rank 1 8 100.0 80.0" in printed
    assert "net alone 2 16 110.0 145.5 90.9%" in printed
    # 16 images in 125 ms: of two ranks alone at the same time, and of two times one rank.
    assert "net data 2 16 125.0 128.0 3.0 75% 88.0% 80.0%" in printed
    assert "net owt 8 64 500.0 128.0 3.0 100%" in printed
    text = " ".join(printed)
    assert "EMULATED computation: 200 GFLOP/s, 10 GB/s" in text
    assert "with 8 ranks there are more threads than the 4 cores" in text


def test_a_picture_shows_one_setting(tmp_path):
    from bench.scaling_report import draw

    one = result(1, [row("alone", 8, [0.10])])
    two = result(2, [row("alone", 8, [0.11]), row("data", 16, [0.12], 0.01, 0.04)])
    draw([two, one], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    emulated = result(2, two["results"], emulated=[200.0, 10.0])
    with pytest.raises(ValueError, match="several settings"):
        draw([one, emulated], tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_strong_scaling_divides_the_work():
    from bench.scaling_report import efficiency

    alone, shared = row("alone", 12, [0.3, 0.6]), row("data", 12, [0.2, 0.4])
    assert efficiency(shared, result(3, []), alone) == pytest.approx(0.5)
    assert efficiency(shared, result(3, []), None) is None


def test_emulated_results_are_never_compared_with_real_ones():
    from bench.scaling_report import efficiency_tables, merge

    one = result(1, [row("alone", 8, [0.10])])
    other = result(1, [row("alone", 8, [0.10])], emulated=[1.0, 1.0])
    third = result(1, [row("alone", 8, [0.10])], set=["owt_scheme=a"])
    assert len(merge([one, other, one, third])) == 3
    assert len(efficiency_tables([one, other])) == 2


def test_scaling_starts_mpiexec_itself(tmp_path):
    file = tmp_path / "result.json"
    options = "--ranks 1 2 --model lenet --parallel data tree --batch 3 --steps 1 --turns 2"
    done = run_free(run("bench.scaling", *options.split(), "--save", file))
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = json.loads(file.read_text())
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert [r["parallel"] for r in two["results"]] == ["alone", "data", "tree"]
    assert [r["batch"] for r in two["results"]] == [3, 6, 6]
    assert all(len(r["turns"]) == 2 for each in (one, two) for r in each["results"])
    assert all(r["turns"][0]["sent"] > 0 for r in two["results"][1:])


def test_images_divided_by_rows(mpiexec):
    options = ("--model", "resnet20", "--image", 32, 32, "--steps", 1, "--turns", 1)
    done = mpiexec(2, *run("bench.spatial", *options, "--threads", 1, "--emulate", 1e5))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resnet20, 3x32x32, batch 1: EMULATED computation, 100000 GFLOP/s" in done.stdout
    assert "spatial: rows (16, 16) up to layer layer3.2.bn2" in done.stdout
    for line in ("alone", "spatial", "speed-up", "sent", "halos", "all messages"):
        assert f"\n{line} " in done.stdout


# --- sums ---


def test_allreduce_on_ranks(tmp_path, mpiexec):
    file = tmp_path / "times.json"
    options = ("--mib", 0.01, "--rounds", 2, "--gbit", 1, "--save", file)
    done = mpiexec(3, *run("bench.allreduce", *options))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.01 MiB of float32, 3 ranks on 1 host with links of 1 Gbit/s" in done.stdout
    seconds = json.loads(file.read_text())["seconds"]
    for name in ("MPI_Allreduce", "library", "ring", "halving-doubling", "tree", "direct"):
        assert name in done.stdout
        assert len(seconds[name]) == 2 and min(seconds[name]) > 0


def test_bound_of_a_sum():
    from bench.allreduce import bound

    assert bound(3 * 10**6, 3, 1.0) == pytest.approx(4e6 / 125e6)


# --- hosts ---


def test_hosts_say_what_they_need(monkeypatch):
    from bench import hosts

    for count, gbit, name in ((0, 1.0, "count"), (2, 0.0, "gbit"), (251, 1.0, "count")):
        with pytest.raises(ValueError, match=name):
            hosts.Hosts(count, gbit)
    monkeypatch.setattr(hosts.shutil, "which", lambda name: None if name == "tc" else name)
    with pytest.raises(hosts.HostsError, match="iproute2"):
        hosts.check()
    monkeypatch.setattr(hosts.sys, "platform", "darwin")
    with pytest.raises(hosts.HostsError, match="this is darwin"):
        hosts.check()


def usable() -> bool:
    """Return whether hosts can be made here."""
    sys.path.append(str(ROOT))
    try:
        from bench.hosts import HostsError, check

        check()
    except HostsError:
        return False
    finally:
        sys.path.remove(str(ROOT))
    return True


@pytest.mark.skipif(not usable(), reason="needs root, iproute2 and Open MPI")
@pytest.mark.parametrize("code", [0, 3])
def test_hosts_are_made_and_taken_away(code):
    from bench.hosts import _namespaces

    before = _namespaces()
    command = ["sh", "-c", f"echo on $(hostname) $(ip -o link show eth0 | wc -l); exit {code}"]
    done = run_free(run("bench.hosts", 2, "--gbit", 0.5, "--ranks", 2, "--", *command))
    assert done.returncode == code, done.stdout + done.stderr
    names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("on ")]
    if not code:  # else the launcher ends the others
        assert len(names) == 4 and len(set(names)) == 2
    assert _namespaces() <= before


def test_memory_decides_who_takes_turns():
    from bench.scaling import bytes_of

    weights = 4 * 145_578  # of cifar10_quick, float32
    assert bytes_of("cifar10_quick", 32, True) == 3 * weights
    assert bytes_of("cifar10_quick", 32, False) > 4 * weights + 32 * 3 * 32 * 32 * 4


def test_ranks_on_made_hosts_share_a_machine(monkeypatch):
    from bench.scaling import ON_ONE_MACHINE, ranks_here

    ranks = Namespace(rank=1, ranks=4, hosts=[[0, 1], [2, 3]])
    assert ranks_here(ranks) == 2
    monkeypatch.setenv(ON_ONE_MACHINE, "1.0")
    assert ranks_here(ranks) == 4
