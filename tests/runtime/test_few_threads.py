"""Where the system does not start as many threads as were asked for: fewer, told, same results."""

import io
import os
import sys
import threading
import warnings
from functools import partial

import numpy as np
import pytest
from rich.console import Console

import lowerconv as lc
from lowerconv import nn
from lowerconv.bench import bandwidth, peak
from lowerconv.cli.doing import doing
from lowerconv.data import Augment, Dataset, Loader, Normalizer, writer
from lowerconv.data.folder import read_folder
from lowerconv.data.pool import Pool
from lowerconv.runtime import affinity, native
from lowerconv.runtime import team as teams
from lowerconv.runtime import threads as settings
from lowerconv.runtime.launch import launch
from lowerconv.runtime.threads import parallel_region
from lowerconv.train.progress import ConsoleReporter

from .children import program
from .convolutions import same, works

pytestmark = pytest.mark.usefixtures("watchdog")

REFUSED = r"no more threads \(can't start new thread\)"


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    teams.end()
    yield
    teams.end()
    lc.set_num_threads(before)


@pytest.fixture
def room(monkeypatch):
    """Return a function that has the system start so many threads only, or all of them again."""
    left, real, refusal = [1 << 30], threading.Thread.start, [RuntimeError]

    def start(thread):
        if not left[0]:
            raise refusal[0]("can't start new thread")
        left[0] -= 1
        real(thread)

    def limit(count=1 << 30, error=RuntimeError):
        left[0], refusal[0] = count, error

    monkeypatch.setattr(threading.Thread, "start", start)
    return limit


@pytest.mark.parametrize("error", [RuntimeError, MemoryError])
@pytest.mark.parametrize("few", [0, 1, 2, 4])
def test_fewer_threads_and_the_same_results(room, few, error):
    lc.set_num_threads(1)
    jobs = works(2 * len(lc.algorithms()))
    expected = [work.run() for work in jobs]
    lc.set_num_threads(8)
    plans = [
        lc.plan_conv2d(
            work.x.shape, work.w.shape, padding=work.padding, algorithm=work.algorithm,
            constant_weights=i % 2 == 1, accumulate=i % 3 == 1,
        )
        for i, work in enumerate(jobs)
    ]  # fmt: skip
    room(few, error)
    with pytest.warns(RuntimeWarning, match=REFUSED) as told:
        for plan, work, results in zip(plans, jobs, expected, strict=True):
            out = np.zeros(plan.result_shape, np.float32) if plan.options.add else None
            assert same([plan(work.x, work.w, out=out)], results[:1]), plan
            assert plan.threads == few + 1
            assert same(work.run(), results), work.algorithm
    (warning,) = told  # once
    assert f"kernels run on {few + 1} of 8 threads" in str(warning.message)
    assert "ulimit -u" in str(warning.message)
    assert lc.get_num_threads() == few + 1
    assert len(teams.team().started) == few


@pytest.mark.parametrize("algorithm", lc.algorithms())
def test_filters_that_are_held(room, algorithm):
    """They are packed for as many threads as there are; for fewer, later, they are not read."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((3, 8, 20, 20)).astype(np.float32)
    w = rng.standard_normal((40, 8, 3, 3)).astype(np.float32)
    lc.set_num_threads(1)
    expected = lc.conv2d(x, w, algorithm=algorithm)
    teams.end()
    lc.set_num_threads(6)
    plan = lc.plan_conv2d(x.shape, w.shape, algorithm=algorithm, constant_weights=True)
    room(2)
    with pytest.warns(RuntimeWarning, match=REFUSED):
        plan.prepack(w)
    assert plan.threads == 3
    np.testing.assert_allclose(plan(x), expected, rtol=1e-3, atol=1e-3)
    teams.end()
    room(1)
    with (
        pytest.warns(RuntimeWarning, match=REFUSED),
        pytest.raises(RuntimeError, match="the system has 2, expected 3, for which the filters"),
    ):
        plan(x)


def test_a_pair_of_siblings_for_each_core(room, monkeypatch):
    """Where "paired" takes more threads than it was told, it takes no more than there are."""
    monkeypatch.setattr("lowerconv.conv.blas.pipelined.siblings", lambda: True)
    monkeypatch.setattr("lowerconv.conv.blas.pipelined.cores", lambda: 64)
    (work,) = (work for work in works(len(lc.algorithms())) if work.algorithm == "paired")
    shapes = work.x.shape, work.w.shape
    lc.set_num_threads(1)
    expected = work.run()[:1]
    for few in range(5):
        teams.end()
        lc.set_num_threads(3)  # 6 for pairs
        plan = lc.plan_conv2d(*shapes, padding=work.padding, algorithm="paired")
        room(few)
        with pytest.warns(RuntimeWarning, match=f"{few + 1} of 6 threads"):
            assert same([plan(work.x, work.w)], expected)
        assert same([plan(work.x, work.w)], expected)
        room()


def test_they_are_started_when_they_are_asked_for_again(room):
    (work,) = works(1)
    expected = work.run()
    teams.end()
    lc.set_num_threads(5)
    room(2)
    with pytest.warns(RuntimeWarning, match="3 of 5 threads"):
        assert same(work.run(), expected)
    assert same(work.run(), expected)  # the system is not asked again
    lc.set_num_threads(4)
    with pytest.warns(RuntimeWarning, match="3 of 4 threads"):
        assert same(work.run(), expected)
    lc.set_num_threads(2)
    assert same(work.run(), expected)
    room()
    lc.set_num_threads(5)
    assert same(work.run(), expected)
    assert lc.get_num_threads() == 5 and len(teams.team().started) == 4


def test_a_warning_that_is_an_error_leaves_everything_in_order(room):
    (work,) = works(1)
    lc.set_num_threads(4)
    room(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=REFUSED):
            work.run()
        expected = work.run()
    lc.set_num_threads(1)
    assert same(work.run(), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Python forks nowhere else")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_asks_anew(room):
    (work,) = works(1)
    expected = work.run()
    teams.end()
    lc.set_num_threads(3)
    room(0)
    with pytest.warns(RuntimeWarning, match=REFUSED):
        work.run()
    room()
    child = os.fork()
    if not child:
        right = same(work.run(), expected) and lc.get_num_threads() == 3
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert lc.get_num_threads() == 1


def test_networks_and_all_that_is_spread(room):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((6, 3, 16, 16)).astype(np.float32)

    def steps():
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(8 * 8 * 8, 10),
        )  # fmt: skip
        network.initialize(np.random.default_rng(3))
        found = []
        for _ in range(2):
            y = network.run(x, nn.Step(training=True))
            network.backward(y)
            found += [y.copy(), *(p.grad.copy() for p in network.parameters().values())]
        return found

    lc.set_num_threads(1)
    expected = steps()
    lc.set_num_threads(6)
    room(2)
    with pytest.warns(RuntimeWarning, match=REFUSED) as told:
        assert same(steps(), expected)
    assert len(told) == 1


def test_at_the_end_of_python_nothing_is_told(room, monkeypatch):
    monkeypatch.setattr(settings, "_ended", True)
    (work,) = works(1)
    lc.set_num_threads(3)
    room(0)  # as Python refuses it then, from 3.12 on
    work.run()


def test_a_job_of_more_workers_than_threads_is_refused():
    with parallel_region(2) as team, pytest.raises(ValueError, match="workers: got 3"):
        launch(team, 0, 0, 3)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be bound here")
def test_those_that_there_are_are_bound(room):
    cpu = min(affinity.topology().cpus)
    lc.set_num_threads(2)
    affinity.set_affinity([cpu])
    try:
        assert affinity.places(2) is None
        room(0)
        with pytest.warns(RuntimeWarning, match=REFUSED), parallel_region(2):
            assert teams.team().places == (cpu,)
    finally:
        affinity.set_affinity("auto")


@pytest.mark.skipif(sys.platform != "linux", reason="limits are others elsewhere")
@pytest.mark.parametrize(("threads", "few"), [(2, 0), (7, 3), (1024, 5)])
def test_a_limit_of_the_system(threads, few):
    told = program("few_threads.py", str(threads), str(few))
    few = few if os.getuid() == 0 else 0
    assert told.startswith(f"{few + 1} lowerconv: this process gets no more threads")
    assert told.count("lowerconv: ") == 1
    assert f"kernels run on {few + 1} of {threads} threads" in told


# Those beside kernels


def random_images(count=41):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 3, 12, 14), np.uint8)
    return Dataset("random", images, rng.integers(0, 3, count), ("a", "b", "c"))


@pytest.mark.parametrize("few", [0, 1, 2])
def test_a_loader(room, few):
    source = random_images()
    augment = Augment.parse("crop,flip,zoom")

    def batches(workers):
        loader = Loader(source, Normalizer(source), 6, augment=augment, workers=workers)
        found = [batch.images for epoch in range(2) for batch in loader.batches(3, epoch)]
        assert loader.report().batches == 14
        loader.close()
        return found

    expected = batches(0)
    room(few)
    how = f"on {few} of them" if few else "when it is asked for"
    with pytest.warns(RuntimeWarning, match=f"lowerconv-data is done {how}") as told:
        assert same(batches(3), expected)
    assert len(told) == 1


@pytest.mark.parametrize("few", [0, 1])
def test_jobs(room, few):
    room(few)
    with pytest.warns(RuntimeWarning, match=REFUSED), Pool(4, "jobs") as pool:
        jobs = [pool.submit(partial(divmod, 17, number)) for number in (5, 0, 3)]
        assert jobs[0].result() == (3, 2)
        with pytest.raises(ZeroDivisionError):
            jobs[1].result()
        assert jobs[2].result() == (5, 2) and jobs[2].done()


def test_an_error_of_a_thread_is_that_of_its_first_job():
    with Pool(1, "jobs", partial(int, "x")) as pool:
        first, second = pool.submit(int), pool.submit(int)
        with pytest.raises(ValueError, match="invalid literal"):
            first.result()
        assert second.result() == 0


def test_jobs_that_nobody_has_begun_are_cancelled():
    begun, going = native.Signal(), native.Signal()
    pool = Pool(1, "jobs")
    first = pool.submit(lambda: begun.set() or going.wait())
    begun.wait()
    others = [pool.submit(partial(int, "7")) for _ in range(3)]
    threading.Timer(0.05, going.set).start()
    pool.close()
    assert first.result()
    assert all(job.done() for job in others)
    with pytest.raises(BaseException, match=r"^$") as caught:
        others[0].result()
    assert type(caught.value).__name__ == "CancelledError"


def test_packing_and_folders(room, tmp_path):
    from PIL import Image

    rng = np.random.default_rng(1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    expected = read_folder(tmp_path, 16)
    source = random_images()

    def pack(path):
        shard = writer.ShardWriter(
            0, source.labels, lambda i: source.images[i], 1, False, 10**9, threads=2
        )
        shard.write(path, 0)
        shard.close()
        return path.read_bytes()

    packed = pack(tmp_path / "before")
    room(0)
    with pytest.warns(RuntimeWarning, match=REFUSED):
        for one, other in zip(read_folder(tmp_path, 16), expected, strict=True):
            assert same([one.images, one.labels], [other.images, other.labels])
        assert pack(tmp_path / "after") == packed


def test_what_is_shown_needs_no_thread(room, monkeypatch):
    monkeypatch.setattr("lowerconv.train.progress.launched_rank", lambda: None)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    room(0)
    reporter = ConsoleReporter(console)
    reporter.start_epoch(1, 1, 100)
    reporter.step(50, 0.25, 0.5)
    reporter.close()
    with doing(console, "measuring") as show:
        show("something else")
    for part in ("50%", "0.2500", "measuring", "something else"):
        assert part in output.getvalue()


@pytest.mark.parametrize(
    "measure", [partial(peak._run, 3, 10), partial(bandwidth.memory_bandwidth, 3, 10**6)]
)
def test_measuring_the_machine_says_so(room, measure):
    room(1)
    with pytest.raises(RuntimeError, match="threads: got 3, expected fewer"):
        measure()
    for thread in threading.enumerate():
        assert thread is threading.main_thread() or thread.daemon, "somebody waits for ever"
