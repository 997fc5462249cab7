"""Ranks that do not belong together are refused, on all of them, before anything is written."""

import json
from pathlib import Path

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.data import Dataset, load, pack, read_shards
from lowerconv.data.split import hold_out
from lowerconv.parallel import Communicator
from lowerconv.parallel.comm.agreement import (
    LONG,
    DisagreementError,
    check_facts_agree,
    check_weights_agree,
    describe_data,
    describe_parameters,
    versions,
)

from ...long import drawn, long_but

PROGRAMS = Path(__file__).parents[1] / "programs"


class Others(Communicator):
    """A rank among others that pass what they are made to: one after another."""

    def __init__(self, *others: object) -> None:
        super().__init__()
        self.ranks, self._others = 1 + len(others), others

    def gather(self, value):
        if isinstance(value, int):  # a checksum
            return [value, *(value + 1 for _ in self._others)]
        return [value, *self._others]


@pytest.mark.parametrize("ranks", long_but([2, 3], [2, 3, 5]))
def test_all_ranks_refuse_or_none(mpiexec, ranks):
    run = mpiexec(ranks, PROGRAMS / "agreement.py", ranks)
    assert run.returncode == 0, run.stderr
    assert all(f"rank {rank} done" in run.stdout for rank in range(ranks))


def test_a_process_alone_agrees_with_itself():
    check_facts_agree(Communicator(), {"a": 1})
    check_weights_agree(Communicator(), {"a": np.ones(3)})


def test_long_values_are_told_where_they_differ():
    classes = [f"class {i}" for i in range(1000)]
    with pytest.raises(DisagreementError) as refused:
        check_facts_agree(
            Others({"classes": json.dumps(classes[:500] + ["dog"] + classes[501:])}),
            {"classes": classes},
        )
    message = str(refused.value)
    assert "class 500" in message
    assert "dog" in message
    assert len(message) < 4 * LONG


def test_versions():
    assert versions()["numpy"] == np.__version__
    assert {"lowerconv", "python", "numba"} <= set(versions())


def some_images(seed=0, count=50):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 8, 6)).astype(np.uint8)
    return Dataset("some", images, np.arange(count) % 3, ("a", "b", "c"))


def changed(dataset, **fields):
    known = {name: getattr(dataset, name) for name in ("name", "images", "labels", "classes")}
    return Dataset(**(known | fields))


def differing(one, other):
    facts = describe_data("test", one), describe_data("test", other)
    assert set(facts[0]) == set(facts[1])
    return [
        name.removeprefix("test images: ")
        for name in facts[0]
        if len({str(f[name]) for f in facts}) > 1
    ]


class TestData:
    def test_equal(self):
        assert differing(some_images(), some_images()) == []

    @pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100])
    def test_any_count(self, count):
        first_and_last = some_images(count=count)
        for index in (0, -1):
            images = first_and_last.images.copy()
            images[index, -1, -1, -1] ^= 1
            other = changed(first_and_last, images=images)
            assert differing(first_and_last, other) == ["checksum of some images"]

    def test_one_label(self):
        labels = some_images().labels.copy()
        labels[29] = (labels[29] + 1) % 3
        other = changed(some_images(), labels=labels)
        assert differing(some_images(), other) == ["checksum of the labels"]

    def test_classes_and_size(self):
        assert differing(some_images(), changed(some_images(), classes=("a", "c", "b"))) == [
            "classes"
        ]
        assert "size" in differing(some_images(), some_images(count=49))

    def test_shards_are_as_what_they_were_packed_from(self, tiny_fashion, tmp_path):
        pack(f"fashion-mnist:{tiny_fashion}", tmp_path / "shards")
        mapped = read_shards(tmp_path / "shards")
        for one, other in zip(load(f"fashion-mnist:{tiny_fashion}"), mapped, strict=True):
            assert differing(one, other) == []
            parts = hold_out(one, 0.3, 1), hold_out(other, 0.3, 1)
            for a, b in zip(*parts, strict=True):
                assert differing(a, b) == []
            assert "checksum of the labels" in differing(*parts[0])


def test_parameters_and_buffers():
    facts = describe_parameters(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm2d(2)))
    assert facts["parameter 0.weight"] == "float32 (2, 3)"
    assert any("running" in name or "mean" in name for name in facts)
    assert facts != describe_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm2d(2)))


# What only the last rank does before it trains, and what all of them then say.
PREPARED = {
    "settings": ("sys.argv += ['--lr', '0.5']", "lr is 0.05 on ranks 0-1, 0.5 on rank 2"),
    "version": (
        "import numpy; numpy.__version__ = '9.8.7'",
        f'numpy is "{np.__version__}" on ranks 0-1, "9.8.7" on rank 2',
    ),
    "data": ("sys.argv += ['--data', OTHER]", "training images: size is 203 on ranks 0-1, 150"),
    "labels": (
        "from lowerconv.data import fashion_mnist, spec\n"
        "    import numpy as np\n"
        "    from dataclasses import replace\n"
        "    read = spec.read_fashion_mnist\n"
        "    def shifted(*a):\n"
        "        train, test = read(*a)\n"
        "        return replace(train, labels=np.roll(train.labels, 1)), test\n"
        "    spec.read_fashion_mnist = shifted",
        "training images: checksum of the labels is",
    ),
    "model": (
        "from lowerconv.nn import models\n"
        "    from dataclasses import replace\n"
        "    lenet, wide = models.MODELS['lenet'], models.MODELS['nin'].build\n"
        "    models.MODELS['lenet'] = replace(lenet, build=wide)",
        'parameter 0.weight is "float32 (20, 1, 5, 5)" on ranks 0-1, "float32 (192, ',
    ),
    "unreadable": ("sys.argv += ['--data', 'cifar10:nowhere']", "rank 2: nowhere"),
    "damaged-images": (
        "from lowerconv.data import Dataset, DataError\n"
        "    def locate(*a): raise DataError('image 3: damaged')\n"
        "    Dataset.locate = locate",
        "rank 2: image 3: damaged",
    ),
    "strategy": (
        "sys.argv += ['--allreduce', 'ring']",
        'parallel option allreduce is "auto" on ranks 0-1, "ring" on rank 2',
    ),
    "strategy-that-is-none": (
        "sys.argv += ['--staleness', '3']",
        "rank 2: staleness: got 3 with strategy 'data'",
    ),
    "loader-threads": (
        "from lowerconv.cli import train\n"
        "    from lowerconv.train import Trainer\n"
        "    train.Trainer = lambda *a, **k: Trainer(*a, **k | {'workers': -1})",
        "rank 2: workers: got -1",
    ),
    "too-many-threads": (
        "sys.argv += ['--threads', '100000']",
        "rank 2: argument --threads: got 100000",
    ),
}


# What ranks find out when they compare; the others fail alone.
COMPARED = ("settings", "version", "data", "labels", "model", "strategy")


@pytest.mark.parametrize("names", [COMPARED, sorted(set(PREPARED) - set(COMPARED))], ids=str)
def test_training_is_refused_before_anything_is_written(
    mpiexec, tiny_fashion, tmp_path, rng, names
):
    for name in drawn(rng, names, 2):
        print(name)
        (tmp_path / name).mkdir()
        check_refused(mpiexec, tiny_fashion, tmp_path / name, *PREPARED[name])


def check_refused(mpiexec, tiny_fashion, tmp_path, action, message):
    other = tmp_path / "other"
    if "OTHER" in action:
        write_fewer(tiny_fashion, other)
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.machine.mpi import launched_rank\n"
        f"OTHER = 'fashion-mnist:{other}'\n"
        f"sys.argv += ['--data', 'fashion-mnist:{tiny_fashion}', '--lr', '0.05']\n"
        "if launched_rank() == 2:\n"
        f"    {action}\n"
        "sys.exit(main())\n"
    )
    run = mpiexec(3, program, "train", "--out", tmp_path / "run", cwd=tmp_path)
    assert run.returncode != 0
    told = run.stdout + run.stderr
    assert told.count(message) == 1, told
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


def test_a_program_of_ones_own_is_refused_on_all_ranks(mpiexec, tiny_fashion, tmp_path):
    """Without the command line: every rank raises, and none waits for another."""
    program = tmp_path / "program.py"
    program.write_text(
        "from lowerconv.machine.mpi import launched_rank\n"
        "from lowerconv.train import Trainer\n"
        f"data = 'fashion-mnist:{tiny_fashion}'\n"
        "def refused(**settings):\n"
        "    try:\n"
        "        Trainer('lenet', data, 'run', **settings)\n"
        "    except Exception as error:\n"
        "        return f'{type(error).__name__}: {error}'\n"
        "last = launched_rank() == 1\n"
        "said = refused(seed=launched_rank()), refused(epochs=0 if last else 1)\n"
        "print(launched_rank(), *said, sep=' | ')\n"
    )
    run = mpiexec(2, program, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    for rank in range(2):
        (line,) = [line for line in run.stdout.splitlines() if line.startswith(f"{rank} |")]
        _, seeds, epochs = line.split(" | ")
        assert seeds.startswith(
            "DisagreementError: ranks that do not belong together: seed is 0 on"
        )
        kind = "ValueError: epochs: got 0" if rank else "RuntimeError: rank 1: epochs: got 0"
        assert epochs.startswith(kind)
    assert not (tmp_path / "run").exists()


def write_fewer(source, target):
    from ...conftest import write_idx

    images, labels = (
        load(f"fashion-mnist:{source}")[0].images,
        load(f"fashion-mnist:{source}")[0].labels,
    )
    target.mkdir()
    for part in ("train", "t10k"):
        write_idx(target / f"{part}-images-idx3-ubyte", images[:150, 0])
        write_idx(target / f"{part}-labels-idx1-ubyte.gz", labels[:150])


def test_weights_that_part_stop_the_run_and_name_the_layer(mpiexec, tiny_fashion, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from lowerconv.cli.main import main\n"
        "from lowerconv.machine.mpi import launched_rank\n"
        "from lowerconv.train import epoch\n"
        "train_epoch = epoch.train_epoch\n"
        "def flip_a_bit(strategy, *a, **k):\n"
        "    result = train_epoch(strategy, *a, **k)\n"
        "    if launched_rank() == 1:\n"
        "        arrays = strategy.network.parameters()\n"
        "        arrays['3.weight'].data.view('u4').reshape(-1)[5] ^= 1\n"
        "    return result\n"
        "epoch.train_epoch = flip_a_bit\n"
        "sys.exit(main())\n"
    )
    arguments = ("train", "--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 1)
    run = mpiexec(3, program, *arguments, cwd=tmp_path)
    assert run.returncode != 0
    message = "weights differ between ranks, in 1 of 8 parameters, first in '3.weight'"
    assert message in run.stderr, run.stderr
    assert " on ranks 0,2, " in run.stderr
    assert " on rank 1" in run.stderr
