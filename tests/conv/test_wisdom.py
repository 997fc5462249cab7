"""What tuning measured is remembered: by all processes, through all damage, for one CPU."""

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.conv import wisdom
from lowerconv.conv.wisdom import forget, recall, remember, wisdom_path
from lowerconv.machine import cache

from ..machine.processes import run_together

#                key:    its choice
CHOICES = {
    "forward a": {"algorithm": "pipelined", "blocks": [6, 64], "seconds": 1.25e-3},
    "größe": {"nested": {"none": None, "yes": True}, "text": 'a "quoted"\nline'},
    "": {},
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Give each test a directory of its own, and a process that has read and told nothing."""
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_told_unwritable", False)
    monkeypatch.setattr(cache, "_told_damaged", False)
    monkeypatch.setattr(wisdom, "_snapshot", None)
    monkeypatch.setattr(wisdom, "_unwritten", {})
    wisdom._file_name.cache_clear()
    yield
    wisdom._file_name.cache_clear()


@pytest.fixture
def content() -> bytes:
    """Return the file in which all CHOICES are remembered."""
    for key, choice in CHOICES.items():
        remember(key, choice)
    return wisdom_path().read_bytes()


def read_anew(content: bytes) -> dict:
    """Put `content` in the file and return what is recalled of CHOICES."""
    wisdom_path().write_bytes(content)
    wisdom._snapshot = None  # a clock that is too coarse may give both files the same time
    return {key: found for key in CHOICES if (found := recall(key)) is not None}


class TestRoundTrip:
    def test_every_choice(self, content):
        assert read_anew(content) == CHOICES
        assert recall("another") is None

    def test_a_line_for_each(self, content):
        lines = content.splitlines()
        assert [json.loads(line)["key"] for line in lines] == list(CHOICES)
        assert all(len(json.loads(line)["check"]) == 16 for line in lines)

    def test_nothing_is_made_by_asking(self):
        assert recall("a") is None
        assert not wisdom_path().parent.exists()

    def test_the_last_choice_counts(self, content):
        for number in range(3):
            remember("forward a", {"number": number})
            assert recall("forward a") == {"number": number}
        assert recall("größe") == CHOICES["größe"]

    def test_what_json_changes(self):
        remember("a", {"pair": (1, 2), 10: "ten", 9: "nine"})
        assert recall("a") == {"pair": [1, 2], "10": "ten", "9": "nine"}

    def test_the_callers_changes_are_their_own(self):
        choice = {"blocks": [1, 2]}
        remember("a", choice)
        choice["blocks"].append(3)
        recall("a")["blocks"].append(4)
        assert recall("a") == {"blocks": [1, 2]}

    @pytest.mark.parametrize(
        ("key", "choice", "error", "message"),
        [
            (1, {}, TypeError, "key: got int, expected a string"),
            ("a", [1], TypeError, "choice: got list, expected a dict"),
            ("a", {"x": {1}}, TypeError, "choice: got .* expected what JSON can hold: .*set"),
            ("a", {"x": float("nan")}, ValueError, "choice: got .* expected what JSON can hold"),
        ],
    )
    def test_what_cannot_be_kept(self, key, choice, error, message):
        with pytest.raises(error, match=message):
            remember(key, choice)
        assert not wisdom_path().exists()


class TestReading:
    def test_once_until_the_file_changes(self, content, monkeypatch):
        looks, reads = [], []
        stat, read = os.stat, wisdom._read

        def counted_stat(path, **options):
            looks.append(path)
            return stat(path, **options)

        monkeypatch.setattr(os, "stat", counted_stat)
        monkeypatch.setattr(wisdom, "_read", lambda path: reads.append(path) or read(path))
        for _ in range(5):
            assert recall("forward a") == CHOICES["forward a"]
            assert recall("another") is None
        assert len(looks) == 10
        assert len(reads) == 1
        os.utime(wisdom_path(), ns=(1, 1))
        recall("forward a")
        assert len(reads) == 2

    def test_what_others_add_is_seen(self, content, monkeypatch, tmp_path):
        assert recall("theirs") is None
        path = wisdom_path()
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "elsewhere"))
            assert recall("forward a") is None
            remember("theirs", {"a": 1})
            line = wisdom_path().read_bytes()
        with open(path, "ab") as file:
            file.write(line)
        assert recall("theirs") == {"a": 1}

    def test_what_others_forget_is_forgotten(self, content):
        assert recall("forward a")
        wisdom_path().unlink()
        assert recall("forward a") is None


LINES = {
    "no_json": b"nonsense",
    "no_record": b"[1, 2]",
    "a_number": b"17",
    "without_check": b'{"key":"forward a","choice":{}}',
    "wrong_check": b'{"key":"forward a","choice":{},"check":"0123456789abcdef"}',
    "key_of_another_type": b'{"key":1,"choice":{},"check":"0123456789abcdef"}',
    "not_a_number": b'{"key":"forward a","choice":{"x":NaN},"check":"0123456789abcdef"}',
    "zeros": bytes(4096),
    "no_unicode": b'"\xff\xfe\xfd"',
    "too_deep": b"[" * 200_000,
    "too_long_a_number": b"9" * 5000,
}


class TestDamage:
    def test_cut_short_anywhere(self, content):
        ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
        for length in range(len(content)):
            # A line that lost no more than its end is whole.
            kept = dict(list(CHOICES.items())[: sum(length >= end for end in ends)])
            if length in ends or length - 1 in [-1, *ends]:
                assert read_anew(content[:length]) == kept
            else:
                with pytest.warns(RuntimeWarning, match="1 damaged line is ignored") as told:
                    assert read_anew(content[:length]) == kept
                (warning,) = told
                assert str(wisdom_path()) in str(warning.message)
                assert warning.filename == __file__

    def test_a_record_after_a_torn_line_survives(self, content):
        ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
        for length in range(1, len(content)):
            wisdom_path().write_bytes(content[:length])
            remember("new", {"length": length})
            kept = sum(length >= end for end in ends)
            if length in ends or length - 1 in ends:
                found = read_anew(wisdom_path().read_bytes())
            else:
                with pytest.warns(RuntimeWarning, match="1 damaged line is ignored"):
                    found = read_anew(wisdom_path().read_bytes())
            assert found == dict(list(CHOICES.items())[:kept])
            assert recall("new") == {"length": length}
            assert b"\n\n" not in wisdom_path().read_bytes()

    def test_any_flipped_bit(self, content):
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                found = read_anew(flipped)
            assert all(choice == CHOICES[key] for key, choice in found.items())
            assert bool(told) == (found != CHOICES)  # "\\u00F6" is read as "\\u00f6" is
            # Flipped line ends join two lines.
            assert len(found) >= len(CHOICES) - (2 if content[bit // 8] == ord("\n") else 1)

    @pytest.mark.parametrize("line", LINES.values(), ids=LINES)
    def test_lines_of_any_kind(self, content, line):
        with pytest.warns(RuntimeWarning, match="1 damaged line is ignored"):
            assert read_anew(line + b"\n" + content) == CHOICES

    def test_checked_but_no_choice(self, content):
        record = {"key": "forward a", "choice": [1], "check": wisdom._check("forward a", [1])}
        with pytest.warns(RuntimeWarning, match="1 damaged line is ignored"):
            assert read_anew(content + json.dumps(record).encode()) == CHOICES

    def test_blank_lines_are_none(self, content):
        assert read_anew(b"\n \n" + content.replace(b"\n", b"\r\n\n")) == CHOICES

    def test_is_told_once_for_each_state_of_the_file(self, content):
        with open(wisdom_path(), "ab") as file:
            file.write(b"torn\nand torn again\n")
        with pytest.warns(RuntimeWarning, match=r"2 damaged lines are ignored.*tune --forget"):
            recall("forward a")
        assert recall("größe") == CHOICES["größe"]  # a RuntimeWarning would be an error here
        remember("new", {})
        with pytest.warns(RuntimeWarning, match="2 damaged lines are ignored"):
            assert recall("new") == {}
        assert recall("another") is None

    def test_warnings_that_are_errors_are_raised_once(self, content):
        with open(wisdom_path(), "ab") as file:
            file.write(b"torn\n")
        with pytest.raises(RuntimeWarning):
            recall("forward a")
        assert recall("forward a") == CHOICES["forward a"]


class TestProcesses:
    def test_write_at_once(self):
        code = """
for turn in range(100):
    wisdom.remember(f"{number} {turn}", {"text": "x" * (37 * number + turn)})
    wisdom.remember("shared", {"number": number})
    assert wisdom.recall(f"{number} {turn}") == {"text": "x" * (37 * number + turn)}
"""
        run_together(3, code)
        for number in range(3):
            for turn in range(100):
                assert recall(f"{number} {turn}") == {"text": "x" * (37 * number + turn)}
        assert recall("shared")["number"] in range(3)
        lines = wisdom_path().read_bytes().split(b"\n")
        assert len(lines) == 3 * 200 + 1
        assert all(wisdom._parse(line) for line in lines[:-1])

    def test_threads_too(self):
        def work(thread):
            for turn in range(20):
                remember(f"{thread} {turn}", {"thread": thread})
                assert recall(f"{thread} {turn}") == {"thread": thread}

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert len(wisdom_path().read_bytes().splitlines()) == 160


class TestUnwritable:
    @pytest.fixture
    def unwritable(self, monkeypatch, tmp_path):
        (tmp_path / "file").touch()
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "file" / "below"))

    def test_this_process_remembers(self, unwritable):
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            remember("a", {"blocks": (1, 2)})
        remember("b", {"b": 1})  # told once: a RuntimeWarning would be an error here
        remember("b", {"b": 2})
        recall("a")["blocks"].append(3)
        assert recall("a") == {"blocks": [1, 2]}
        assert recall("b") == {"b": 2}
        forget()
        assert recall("a") is None

    def test_another_directory_is_not_concerned(self, unwritable, monkeypatch, tmp_path):
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            remember("a", {"a": 1})
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
        assert recall("a") is None
        remember("a", {"a": 2})
        assert recall("a") == {"a": 2}

    def test_full_disk(self, content, monkeypatch):
        write = os.write
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda descriptor, text: write(descriptor, text[:20]))
            with pytest.warns(RuntimeWarning, match="No space left on device"):
                remember("new", {"new": 1})
        assert recall("new") == {"new": 1}
        remember("new", {"new": 2})  # there is space again
        with pytest.warns(RuntimeWarning, match="1 damaged line is ignored"):
            assert recall("new") == {"new": 2}
        assert recall("forward a") == CHOICES["forward a"]

    def test_a_directory_in_its_place(self):
        wisdom_path().mkdir(parents=True)
        with pytest.warns(RuntimeWarning, match="cannot be read"):
            assert recall("a") is None
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            remember("a", {})
        assert recall("a") == {}
        with pytest.raises(OSError):
            forget()


OTHERS = {
    "version": ("__version__", "99.0"),
    "cpu": ("cpu_name", lambda: "Another CPU"),
    "instruction_set": ("host_isa", lambda: ISAS["neon"]),
}


NAMES = {
    "Maker(R) Gold 9999 CPU @ 2.10GHz": "maker-r-gold-9999-cpu-2-10ghz",
    "../../etc/passwd": "etc-passwd",
    "処理": "unknown",
    "x" * 300: "x" * 100,
}


class TestPath:
    @pytest.mark.parametrize(("name", "value"), OTHERS.values(), ids=OTHERS)
    def test_others_are_not_mixed(self, content, monkeypatch, name, value):
        mine = wisdom_path()
        with monkeypatch.context() as another:
            another.setattr(wisdom, name, value)
            wisdom._file_name.cache_clear()
            assert wisdom_path() != mine
            assert recall("forward a") is None
            remember("forward a", {"theirs": 1})
            forget()
        wisdom._file_name.cache_clear()
        assert recall("forward a") == CHOICES["forward a"]

    @pytest.mark.parametrize(("cpu", "slug"), NAMES.items(), ids=NAMES.values())
    def test_is_a_plain_name(self, monkeypatch, tmp_path, cpu, slug):
        monkeypatch.setattr(wisdom, "__version__", "1.2.3")
        monkeypatch.setattr(wisdom, "cpu_name", lambda: cpu)
        monkeypatch.setattr(wisdom, "host_isa", lambda: ISAS["avx2"])
        monkeypatch.setattr(wisdom.llvm, "get_host_cpu_name", lambda: "core9")
        assert wisdom_path() == tmp_path / "cache" / "wisdom" / f"1.2.3-{slug}-core9-avx2.jsonl"


class TestForget:
    def test_everything(self, content):
        forget()
        assert not wisdom_path().exists()
        assert [recall(key) for key in CHOICES] == [None] * len(CHOICES)
        remember("a", {"new": 1})
        assert recall("a") == {"new": 1}

    def test_nothing_to_forget(self, monkeypatch, tmp_path):
        forget()
        (tmp_path / "file").touch()
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "file"))
        forget()


@pytest.mark.skipif(os.name != "posix", reason="replaces fcntl")
@pytest.mark.parametrize("name", ["ENOLCK", "ENOTSUP", "ENOSYS"])
def test_a_file_system_without_locks_remembers_too(monkeypatch, name):
    import errno
    import fcntl

    def fail(*_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", fail)
    for key, choice in CHOICES.items():
        remember(key, choice)
    wisdom._snapshot = None
    assert {key: recall(key) for key in CHOICES} == CHOICES
