"""Measuring: the machine's peaks, candidates in turns, and a small run of every table."""

import re

import llvmlite.binding as llvm
import numpy as np
import pytest

from lowerconv.bench import alexnet, case, microkernels, precision, store, training
from lowerconv.bench.bandwidth import memory_bandwidth
from lowerconv.bench.case import Case, Options
from lowerconv.bench.interleaved import LEAST, times
from lowerconv.bench.passes import check_agreement
from lowerconv.bench.peak import _VECTORS, _source, fma_peak
from lowerconv.bench.study import measure, measure_case
from lowerconv.bench.tables import TABLES
from lowerconv.runtime.threads import get_num_threads, set_num_threads


@pytest.fixture(autouse=True)
def threads():
    """Set the number of threads back, which measuring sets for the process."""
    before = get_num_threads()
    yield before
    set_num_threads(before)


def test_candidates_rest_after_their_turns():
    class Candidate:
        calls, rests = 0, 0

        def __call__(self):
            self.calls += 1

        def rest(self):
            self.rests += 1

    calm, hasty = Candidate(), Candidate()
    taken = times({"calm": calm}, seconds=0.0, settle=0.001)
    assert len(taken["calm"]) == LEAST
    assert calm.rests == LEAST + 1 < calm.calls
    times({"hasty": hasty}, seconds=0.0)
    assert (hasty.calls, hasty.rests) == (LEAST + 2, 0)


def test_peak_is_compiled_for_every_instruction_set():
    assert fma_peak(1) > 0
    for name, (lanes, chains) in _VECTORS.items():
        source = _source(lanes, chains, fused=name != "sse", scalable=name[:3] == "sve")
        llvm.parse_assembly(source).verify()
        assert ("vscale_range" in source) == (name[:3] == "sve")
        called = source.count(f'@"llvm.fma.v{lanes}f32"(<') - 1  # the declaration
        assert called == (0 if name == "sse" else chains)


def test_register_tiles_of_some_threads(monkeypatch):
    monkeypatch.setattr(microkernels, "SECONDS", 1e-4)
    monkeypatch.setattr(microkernels, "ROUNDS", 1)
    for count in (1, 3):
        found = microkernels.microkernel_peaks(count)
        assert set(found) == {"float32", "bf16", "int8"}
        assert all(1e7 < speed < 1e15 for speed in found.values())


def test_networks_of_fewer_bits():
    images = precision.images_of("cifar10_quick", 2)
    network = precision.network_of("cifar10_quick")
    scores, details = {}, {}
    for name in precision.NUMBERS:
        run = precision.Inference(precision.with_numbers(network, name, images), images)
        network.precision = "float32"
        scores[name], details[name] = run(), run.details()
    largest = np.abs(scores["float32"]).max()
    for name, most in (("bf16", 0.03), ("fp16", 0.01), ("int8", 0.1)):
        difference = np.abs(scores[name] - scores["float32"]).max() / largest
        assert 0 < difference < most, name
    assert len({found["flops"] for found in details.values()}) == 1
    assert details["bf16"]["bytes"] == details["fp16"]["bytes"] < details["float32"]["bytes"]
    assert details["int8"]["memory"] < details["float32"]["memory"] / 2


def test_bandwidth_of_some_threads():
    for count in (1, 3):
        found = memory_bandwidth(count, 12 << 20)
        assert set(found) == {"read", "triad"}
        assert all(1e6 < speed < 1e13 for speed in found.values())


def test_a_thread_that_fails_does_not_leave_the_others_waiting(monkeypatch):
    def fail(*arrays):
        raise MemoryError("nothing left")

    monkeypatch.setitem(memory_bandwidth.__globals__["LOOPS"], "triad", fail)
    with pytest.raises(MemoryError, match="nothing left"):
        memory_bandwidth(3, 1 << 16)


def test_who_differs_is_named():
    one = np.ones((2, 3), np.float32)
    check_agreement({"ours": lambda: one, "theirs": lambda: one + 1e-6}, "conv1")
    with pytest.raises(RuntimeError, match=r"conv1: theirs differs from ours by 2\.0e-01"):
        check_agreement({"ours": lambda: one, "theirs": lambda: one * 1.2}, "conv1")
    with pytest.raises(RuntimeError, match="theirs differs from ours by nan"):
        check_agreement({"ours": lambda: one, "theirs": lambda: one * np.nan}, "conv1")
    with pytest.raises(RuntimeError, match="theirs differs"):  # both gradients count
        check_agreement({"ours": lambda: (one, one), "theirs": lambda: (one, -one)}, "conv1")


def test_candidates_that_differ_are_not_timed():
    runs = {"a": lambda: np.ones(3), "b": lambda: np.zeros(3)}
    differing = Case({"layer": "x"}, ("a", "b"), lambda names: runs)
    with pytest.raises(RuntimeError, match="x: b differs from a"):
        measure_case(differing, Options(1, seconds=0.01))


LAYERS = {
    "cifar10": "^conv3$",
    "googlenet": "^5a-5x5$",
    "alexnet": "^conv3$|others",
    "threads": "^conv3$",
    "training": "",
    "roofline": "^(5a-5x5|dw13)$",
    "precision": "",
}


@pytest.mark.parametrize("table", LAYERS)
def test_a_small_run(tmp_path, monkeypatch, table, threads):
    monkeypatch.setattr(case, "SLOW", 2e7)
    monkeypatch.setattr(alexnet, "HIDDEN", 64)
    monkeypatch.setattr(precision, "NETWORKS", ("cifar10_quick",))
    study = TABLES[table]
    told = []
    most = min(2, threads)
    options = Options(most, 1, study.passes, re.compile(LAYERS[table]), 0.001)
    result = measure(study, options, told.append)
    assert len(told) == len(result.rows) + 1
    assert told[-1].endswith(f"({len(result.rows)} of {len(result.rows)})")
    assert result.conditions["peak"] > 0
    assert result.setting == {"threads": most, "batch": 1, "seconds": 0.001}
    for row in result.rows:
        assert all(len(taken) >= LEAST for taken in row.seconds.values())
    assert study.tables(result)
    assert all(study.notes(result))
    store.save(result, tmp_path)
    assert store.load(tmp_path, table) == result


def test_a_training_step_is_told_in_parts():
    step = training.TrainingStep("lenet", 2, "fused")
    weights = {name: p.data.copy() for name, p in step.network.parameters().items()}
    for _ in range(3):
        step()
    details = step.details()
    assert list(details["seconds"]) == list(training.PARTS)
    assert all(seconds > 0 for seconds in details["seconds"].values())
    # Two layers: forward and both gradients of the second, no gradient of the images.
    first, second = 2 * 2 * 20 * 24 * 24 * 25, 2 * 2 * 50 * 8 * 8 * 20 * 25
    assert details["flops"] == 2 * first + 3 * second
    # Every step is the same work.
    assert all((p.data == weights[name]).all() for name, p in step.network.parameters().items())
    assert any(np.abs(p.grad).max() > 0 for p in step.network.parameters().values())
