"""Options of the command line and arguments of Python: both take the same, and say the same."""

import argparse
import math
import re
from dataclasses import fields

import numpy as np
import pytest

from lowerconv.arguments import COUNT, Choice, Flag, Integers, Number, Place, described
from lowerconv.bench.case import Options
from lowerconv.cli.main import build_parser
from lowerconv.data.loader import WORKERS
from lowerconv.data.packing import BYTES, PIXELS
from lowerconv.parallel.options import BELONGS_TO, ParallelOptions
from lowerconv.parallel.slurm import Job
from lowerconv.quant.options import _BELONGS_TO as _BESIDE
from lowerconv.train import Trainer
from lowerconv.train.settings import _BELONGS_TO, Settings

OWNERS = {"settings": Settings, "options": ParallelOptions}


def values(kind):
    """Return texts, and what they stand for, at both ends of what may be, and just outside."""
    if isinstance(kind, Number):
        step = (
            (lambda x, to: int(x) + (1 if to > x else -1)) if kind.kind is int else math.nextafter
        )
        most = kind.most if kind.most < math.inf else COUNT if kind.kind is int else 1e308
        numbers = [kind.least, step(kind.least, -math.inf), step(kind.least, math.inf)]
        numbers += [most, step(most, -math.inf), step(most, math.inf), -1, 10**30]
        yield from ((repr(kind.kind(number)), kind.kind(number)) for number in numbers)
        if kind.kind is float:
            yield from ((text, float(text)) for text in ("nan", "inf", "-inf", "1e999"))
        yield from ((text, text) for text in ("", "many", "1,5"))
    elif isinstance(kind, Choice):
        yield from ((word, word) for word in (*kind.words, "", "magic", kind.words[0].upper()))
    else:
        yield from (("", ""), ("3", "3"), ("a\0b", "a\0b"))


def cases():
    for owner, known in OWNERS.items():
        for name, about in described(known).items():
            if not isinstance(about.kind, (Flag, Integers)) and name != "augment":
                for text, value in values(about.kind):
                    yield owner, name, text, value


CASES = list(cases())


def read(option, text):
    """Return what the command line makes of an option of ``train``; what it says if nothing."""
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    train = commands.choices["train"]
    train.exit_on_error = False
    try:
        return vars(train.parse_args([f"{option}={text}"])), None
    except argparse.ArgumentError as error:
        return None, str(error)


def make(owner, name, value):
    """Return what Python makes of an argument; what it says if nothing."""
    more = {}
    if owner is Settings:
        choice, owners = _BELONGS_TO.get(name, ("", ()))
        more = {choice: owners[0]} if choice else {}
        if name in _BESIDE:
            more = {_BESIDE[name]: {"weight_bits": 4, "fixed_point": (4, 12)}[_BESIDE[name]]}
        more |= {"model": "m", "data": "d", "epochs": COUNT}
    elif name in BELONGS_TO:
        more = {"strategy": BELONGS_TO[name][-1]}
    try:
        return getattr(owner(**{**more, name: value}), name), None
    except (TypeError, ValueError) as error:
        return None, str(error)


@pytest.mark.parametrize("owner", OWNERS)
def test_both_take_the_same_and_say_the_same(owner):
    for of, name, text, value in CASES:
        if of != owner:
            continue
        about = described(OWNERS[owner])[name]
        option = "--" + (about.option or name).replace("_", "-")
        taken, refused = read(option, text)
        made, says = make(OWNERS[owner], name, value)
        where = f"{option}={text!r}: {refused}; {name}={value!r}: {says}"
        assert (refused is None) == (says is None), where
        if refused is None:
            assert taken[name] == made, where
            continue
        assert says.startswith(f"{name}: got "), where
        assert refused.startswith(f"argument {option}: got "), where
        for message in (says, refused):
            found = re.search("got (.*), expected (.+)", message, re.DOTALL)
            assert found and found[1] and found[2], where
        if type(value) is not str or isinstance(about.kind, Choice):  # the very same words
            assert says.partition(": ")[2] == refused.partition(": ")[2], where


ENDS = [
    ("staleness", 64, 65),
    ("bucket_mib", 1024.0, math.nextafter(1024, 2000)),
    ("bucket_mib", 0.001, math.nextafter(0.001, 0)),
    ("stall_timeout", 1e308, math.inf),
    ("momentum", math.nextafter(1, 0), 1.0),
    ("seed", 2**64 - 1, 2**64),
    ("epochs", COUNT, COUNT + 1),
]


@pytest.mark.parametrize(("name", "last", "outside"), ENDS)
def test_where_ranges_end(name, last, outside):
    """What the table above has to contain, in numbers."""
    owner = Settings if name in described(Settings) else ParallelOptions
    assert make(owner, name, last)[1] is None
    assert "expected at" in make(owner, name, outside)[1]
    option = "--" + name.replace("_", "-")
    assert read(option, repr(last))[0][name] == last
    assert read(option, repr(outside))[0] is None


def test_every_field_is_described():
    for owner in OWNERS.values():
        assert {f.name for f in fields(owner)} - {"model", "data"} == set(described(owner))


def test_every_option_of_train_is_a_field_or_known():
    parser = build_parser()
    commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found = {action.dest for action in commands.choices["train"]._actions}
    known = set(described(Settings)) | set(described(ParallelOptions))
    others = {"help", "model", "data", "threads", "affinity", "loader_threads", "spare_core"}
    assert found == known | others | {"out", "resume", "init_from", "tensorboard", "calibration"}


@pytest.mark.parametrize("owner", OWNERS)
def test_flags_are_true_or_false(owner):
    for name, about in described(OWNERS[owner]).items():
        if isinstance(about.kind, Flag):
            for value in ("yes", 1, 0.0):
                _, says = make(OWNERS[owner], name, value)
                assert says == f"{name}: got {value!r}, expected True or False"


def test_numbers_of_numpy_become_those_of_python():
    settings = Settings("m", "d", epochs=np.int64(3), lr=np.float32(0.5), nesterov=np.True_)
    assert [type(v) for v in (settings.epochs, settings.lr, settings.nesterov)] == [
        int,
        float,
        bool,
    ]
    assert (settings.epochs, settings.lr) == (3, 0.5)


@pytest.mark.parametrize(
    ("value", "error"),
    [([3, 2], ValueError), ((0, 2), ValueError), ((1, 1), ValueError), ("3", TypeError),
     ((1.5,), TypeError), ((True,), TypeError)],
)  # fmt: skip
def test_milestones_are_ascending_epochs(value, error):
    with pytest.raises(error, match=r"^milestones: got .*, expected ascending epochs from 1 on"):
        Settings("m", "d", schedule="step", milestones=value)


def test_milestones_may_be_a_list():
    assert Settings("m", "d", schedule="step", milestones=[3, 9]).milestones == (3, 9)
    assert read("--milestones", "3,9")[0]["milestones"] == (3, 9)


@pytest.mark.parametrize(
    ("value", "error"),
    [((4,), ValueError), ((4, 12, 1), ValueError), ((4, 30), ValueError), (4, TypeError),
     ("4,12", TypeError), ((4.0, 12), TypeError)],
)  # fmt: skip
def test_formats_are_two_integers(value, error):
    with pytest.raises(error, match=r"^fixed_point: got .*, expected IL"):
        Settings("m", "d", fixed_point=value)


def test_formats_of_the_command_line():
    assert read("--fixed-point", "4,12")[0]["fixed_point"] == (4, 12)
    assert read("--gradient-fixed-point", "-2,18")[0]["gradient_fixed_point"] == (-2, 18)
    assert Settings("m", "d", fixed_point=[4, 12]).fixed_point == (4, 12)  # as JSON has it
    assert "expected IL,FL" in read("--fixed-point", "4")[1]


#  arguments, what they say; the last one is the option's text
OTHERS = {
    "out": (["train", "--out", ""], "--out: got '', expected the path of a directory"),
    "loader-threads": (["train", "--loader-threads", "1025"], f"got 1025, expected {WORKERS}"),
    "threads": (["train", "--threads", "1025"], "--threads: got 1025, expected at least 1 and at"),
    "bench-threads": (["bench", "--threads", "0"], "--threads: got 0, expected at least 1"),
    "bench-batch": (["bench", "--batch", "x"], "--batch: got 'x', expected int, at least 1"),
    "bench-seconds": (["bench", "--seconds", "3601"], "got 3601.0, expected at least 0.001"),
    "bench-save": (["bench", "--save", ""], "--save: got '', expected the path of a folder"),
    "pack-size": (["pack", "S", "D", "--size", "0"], f"--size: got 0, expected {PIXELS}"),
    "pack-shard": (["pack", "S", "D", "--shard-size", "0"], f"got 0, expected {BYTES}"),
    "slurm-nodes": (["slurm", "--nodes", "0"], "--nodes: got 0, expected at least 1"),
    "slurm-output": (["slurm", "--nodes", "1", "-o", ""], "got '', expected the path of a new"),
    "timeline-step": (["timeline", "F", "--step", "-1"], "--step: got -1, expected at least 0"),
    "timeline-plot": (["timeline", "F", "--plot", ""], "--plot: got '', expected the path of a"),
    "tune-stride": (["tune", "--stride", "0"], "--stride: got 0, expected N or N,N, integers of"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_options_name_value_and_range(name, capsys):
    arguments, message = OTHERS[name]
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_python_refuses_what_other_commands_refuse(tmp_path):
    with pytest.raises(ValueError, match=r"^batch: got 0, expected at least 1"):
        Options(1, batch=0)
    with pytest.raises(ValueError, match=r"^seconds: got nan, expected at least 0.001"):
        Options(1, seconds=math.nan)
    with pytest.raises(ValueError, match=r"^--nodes: got 0, expected at least 1"):
        Job("n", ["train"], "python", 0, None, "c", "m")
    for value, error in (("", ValueError), ("a\0b", ValueError), (3, TypeError)):
        with pytest.raises(error, match=r"^out: got .*, expected the path of a directory"):
            Trainer("lenet", "fashion-mnist", value)
    with pytest.raises(ValueError, match=r"^workers: got 1025, expected at least 0 and at most"):
        Trainer("lenet", "fashion-mnist", tmp_path / "run", workers=1025)


def test_places_are_paths(tmp_path):
    assert Place("x").check(str(tmp_path)) == Place("x").check(tmp_path) == tmp_path
