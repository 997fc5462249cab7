"""Ctrl-C at any moment of a run: its threads, the terminal, its files, and going on afterwards."""

import gzip
import io
import os
import threading

import numpy as np
import pytest
from rich.console import Console

from lowerconv import nn
from lowerconv.cli import main as command_line
from lowerconv.closing import close_all
from lowerconv.data import Dataset, pack
from lowerconv.data.loader import Loader
from lowerconv.data.normalizer import Normalizer
from lowerconv.parallel import Communicator
from lowerconv.train import Trainer, directory
from lowerconv.train.checkpoint import LAST, load_checkpoint
from lowerconv.train.ema import WeightAverage
from lowerconv.train.progress import ConsoleReporter

from ..interrupts import interrupts
from ..long import LONG

MOST = 500 if LONG else 100  # moments of all

pytestmark = pytest.mark.usefixtures("watchdog")

LIMIT = 100  # seconds, for what takes none
SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


def in_time(function):
    """Return what a function returns in another thread, which finds nothing locked."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert results, "it hangs, or has failed"
    return results[0]


def threads_that_load() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("lowerconv-data")}


@pytest.fixture
def images():
    rng = np.random.default_rng(2)
    return Dataset(
        "images",
        rng.integers(0, 256, (13, 1, 6, 6)).astype(np.uint8),
        np.arange(13) % 3,
        ("a", "b", "c"),
    )


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def shows_its_cursor(console: Console) -> bool:
    text = console.file.getvalue()
    return text.rfind(SHOW) >= text.rfind(HIDE)


def test_functions_that_close_are_all_called():
    called = []

    def fail(number):
        called.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="2"):
        close_all([lambda: called.append(1), lambda: fail(2), lambda: called.append(3)])
    assert called == [1, 2, 3]


def test_functions_that_close_go_on_after_an_interrupt():
    called: set[int] = set()
    closers = [lambda: called.add(1), lambda: called.add(2), lambda: called.add(3)]

    def use():
        called.clear()
        left = list(closers)
        try:
            len(left)
        finally:
            try:
                close_all(left)
            except KeyboardInterrupt:
                close_all(left)
                raise

    begun = False
    for _ in interrupts(use):
        begun = begun or bool(called)
        assert called == ({1, 2, 3} if begun else set())
    assert begun


def test_the_cursor_is_shown_again():
    consoles = []

    def use():
        reporter = ConsoleReporter(consoles[-1])
        try:
            reporter.start_epoch(1, 2, 10)
            reporter.step(5, 0.5, 0.5)
        finally:
            try:
                reporter.close()
            except KeyboardInterrupt:
                reporter.close()
                raise

    # A console of rich that has been interrupted may keep what it is given to itself.
    for _ in interrupts(use, most=MOST, prepare=lambda: consoles.append(terminal())):
        assert shows_its_cursor(consoles[-1])
    assert any(HIDE in console.file.getvalue() for console in consoles)


def test_a_run_that_has_not_begun_changes_no_terminal():
    console = terminal()
    ConsoleReporter(console)
    assert console.file.getvalue() == ""


def test_commands_that_are_interrupted_show_the_cursor(monkeypatch, capsys):
    class Parser:
        def parse_args(self, arguments):
            return self

        def func(self, options):
            raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "build_parser", Parser)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, to rich
    monkeypatch.setenv("TERM", "xterm")
    assert command_line.main([]) == 130
    told = capsys.readouterr()
    assert SHOW in told.out
    assert "lowerconv: interrupted" in told.err


def test_weights_are_the_network_s_own_again():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    average = WeightAverage(network, 0.5)
    for values in average.values.values():
        values[...] = 7
    parameters = network.parameters().values()
    before = [p.data.copy() for p in parameters]
    for _ in interrupts(lambda: average.in_place(lambda: None)):
        assert all(np.array_equal(p.data, b) for p, b in zip(parameters, before, strict=True))


def test_an_average_takes_in_whole_arrays():
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    average = WeightAverage(network, 0.5)
    start = {name: array + 1 for name, array in average.values.items()}

    def go_back():
        for name, array in average.values.items():
            array[...] = start[name]

    go_back()
    average.update(2)
    end = {name: array.copy() for name, array in average.values.items()}
    for _ in interrupts(lambda: average.update(2), prepare=go_back):
        for name, array in average.values.items():
            assert np.array_equal(array, start[name]) or np.array_equal(array, end[name])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_batches(images, workers):
    loaders = [Loader(images, Normalizer(images.images), 4, workers=workers)]
    threads = threads_that_load()

    def begin_anew():
        loaders[0].close()
        loaders[0] = Loader(images, Normalizer(images.images), 4, workers=workers)

    def batches():
        loaders[0].prefetch(1, 0)
        return [batch.labels.tolist() for batch in loaders[0].batches(1, 0)]

    def close_and_use():
        loaders[0].close()
        found = batches()
        loaders[0].close()
        return found

    expected = close_and_use()
    for _ in interrupts(batches, most=MOST, prepare=begin_anew):
        assert in_time(close_and_use) == expected
        assert threads_that_load() == threads
    # Where the pool is forgotten, Python ends it, and can tell nobody.
    for _ in interrupts(lambda: loaders[0].close(), prepare=batches, may_be_lost=True):
        assert in_time(close_and_use) == expected
        assert threads_that_load() == threads


def test_packing(tiny_fashion, tmp_path):
    # Not compressed: Python forgets an interrupt that comes while it closes a file of gzip.
    source, whole = tmp_path / "source", tmp_path / "whole"
    source.mkdir()
    for path in tiny_fashion.iterdir():
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        (source / path.name.removesuffix(".gz")).write_bytes(content)
    pack(str(source), whole, shard_bytes=1 << 16)
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    target = tmp_path / "target"

    def begin_anew():
        for path in target.iterdir() if target.exists() else ():
            path.unlink()

    for _ in interrupts(
        lambda: pack(str(source), target, shard_bytes=1 << 16), most=40, prepare=begin_anew
    ):
        for path in target.iterdir() if target.exists() else ():
            assert expected[path.name] == path.read_bytes()
        pack(str(source), target, shard_bytes=1 << 16)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == expected


def test_training(monkeypatch, images, tmp_path):
    monkeypatch.setattr(directory, "draw_curves", lambda *arguments: None)
    number = iter(range(10**6))
    run = []

    def make(out, resume=False):
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
        rng = np.random.default_rng(1)
        for parameter in network.parameters().values():
            parameter.data[...] = rng.standard_normal(parameter.data.shape) / 4
        return Trainer(
            network,
            (images, images),
            out,
            resume=resume,
            communicator=Communicator(),
            reporter=ConsoleReporter(terminal()),
            epochs=2,
            batch=4,
            lr=0.1,
            ema=0.5,
        )

    def prepare():
        run[:] = [make(tmp_path / str(next(number)))]

    def weights(out):
        return load_checkpoint(out / LAST).tensors

    prepare()
    run[0].fit()
    expected = weights(run[0].out)
    threads = threads_that_load()
    for _ in interrupts(lambda: run[0].fit(), most=30, prepare=prepare):
        out = run[0].out
        assert threads_that_load() == threads
        assert shows_its_cursor(run[0].reporter._console)
        assert [name for name in os.listdir(out) if "partial" in name] == []
        again = make(out, resume=(out / LAST).exists())
        again.fit()
        found = weights(out)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)
