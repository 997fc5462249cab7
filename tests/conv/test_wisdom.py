"""What tuning measured is remembered: by all processes, through all damage, for one CPU."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lowerconv.codegen.isa import ISAS
from lowerconv.conv import wisdom
from lowerconv.conv.wisdom import check_writable, forget, recall, remember, wisdom_path
from lowerconv.machine import disk_cache

from ..machine.processes import run_together

#                key:    its choice
CHOICES = {
    "forward a": {"algorithm": "pipelined", "blocks": [6, 64], "seconds": 1.25e-3},
    "größe": {"nested": {"none": None, "yes": True}, "text": 'a "quoted"\nline'},
    "": {},
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Give each test a directory of its own, and a process that has told nothing."""
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "_told_unwritable", False)
    monkeypatch.setattr(disk_cache, "_told_damaged", False)
    monkeypatch.setattr(wisdom, "_unwritten", {})
    wisdom._machine.cache_clear()
    yield
    wisdom._machine.cache_clear()


@pytest.fixture
def files() -> dict[str, Path]:
    """Remember all CHOICES, and return the file of each."""
    for key, choice in CHOICES.items():
        remember(key, choice)
    return {key: wisdom._file(wisdom_path(), key) for key in CHOICES}


def recalled() -> dict:
    """Return what is recalled of CHOICES, told of damage as if for the first time."""
    disk_cache._told_damaged = False
    return {key: found for key in CHOICES if (found := recall(key)) is not None}


class TestRoundTrip:
    def test_every_choice(self, files):
        assert recalled() == CHOICES
        assert recall("another") is None

    def test_a_file_for_each(self, files):
        assert set(wisdom_path().iterdir()) == set(files.values())
        for key, path in files.items():
            assert json.loads(disk_cache.read_checked(path)) == {"key": key, "choice": CHOICES[key]}

    def test_nothing_is_made_by_asking(self):
        assert recall("a") is None
        assert not wisdom_path().parent.exists()

    def test_the_last_choice_counts(self, files):
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
    def test_only_the_file_of_the_key_is_read(self, files, monkeypatch):
        reads, read = [], wisdom.read_checked
        monkeypatch.setattr(wisdom, "read_checked", lambda path: reads.append(path) or read(path))
        assert recall("forward a") == CHOICES["forward a"]
        assert reads == [files["forward a"]]

    def test_what_others_add_is_seen(self, files, monkeypatch, tmp_path):
        assert recall("theirs") is None
        mine = wisdom_path()
        with monkeypatch.context() as elsewhere:
            elsewhere.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "elsewhere"))
            assert recall("forward a") is None
            remember("theirs", {"a": 1})
            (theirs,) = wisdom_path().iterdir()
        theirs.rename(mine / theirs.name)
        assert recall("theirs") == {"a": 1}

    def test_what_others_forget_is_forgotten(self, files):
        assert recall("forward a")
        files["forward a"].unlink()
        assert recall("forward a") is None


RECORD = {"key": "forward a", "choice": {}}

CONTENTS = {
    "empty": b"",
    "no_json": b"nonsense",
    "without_check": json.dumps(RECORD).encode(),
    "wrong_check": disk_cache.MAGIC + bytes(32) + json.dumps(RECORD).encode(),
    "zeros": bytes(4096),
    "no_unicode": b'"\xff\xfe\xfd"',
}

WHOLE_BUT_FOREIGN = {
    "no_json": b"nonsense",
    "no_record": b"[1, 2]",
    "a_number": b"17",
    "no_choice": b'{"key":"forward a"}',
    "choice_of_another_type": b'{"key":"forward a","choice":[1]}',
    "another_key": b'{"key":"forward b","choice":{}}',
    "no_unicode": b'"\xff\xfe\xfd"',
    "too_deep": b"[" * 200_000,
    "too_long_a_number": b"9" * 5000,
}

OTHERS_ARE_WHOLE = {key: choice for key, choice in CHOICES.items() if key != "forward a"}


class TestDamage:
    def test_cut_short_anywhere(self, files):
        path = files["forward a"]
        content = path.read_bytes()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            with pytest.warns(RuntimeWarning, match="it is ignored and made again") as told:
                assert recalled() == OTHERS_ARE_WHOLE
            (warning,) = told
            assert str(path) in str(warning.message)

    def test_any_flipped_bit(self, files):
        path = files["forward a"]
        content = path.read_bytes()
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.warns(RuntimeWarning, match="it is ignored and made again"):
                assert recalled() == OTHERS_ARE_WHOLE

    @pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
    def test_files_of_any_kind(self, files, content):
        files["forward a"].write_bytes(content)
        with pytest.warns(RuntimeWarning, match="it is ignored and made again"):
            assert recalled() == OTHERS_ARE_WHOLE

    @pytest.mark.parametrize("content", WHOLE_BUT_FOREIGN.values(), ids=WHOLE_BUT_FOREIGN)
    def test_checked_but_no_choice(self, files, content):
        disk_cache.store_checked(files["forward a"], content)
        with pytest.warns(RuntimeWarning, match="holds something else; it is ignored"):
            assert recalled() == OTHERS_ARE_WHOLE

    def test_is_made_again(self, files):
        files["forward a"].write_bytes(b"torn")
        remember("forward a", {"new": 1})
        assert recall("forward a") == {"new": 1}

    def test_is_told_once(self, files):
        for path in files.values():
            path.write_bytes(b"torn")
        with pytest.warns(RuntimeWarning, match="so is any other such file"):
            assert recall("forward a") is None
        assert recall("größe") is None  # a RuntimeWarning would be an error here

    def test_warnings_that_are_errors_are_raised_once(self, files):
        files["forward a"].write_bytes(b"torn")
        with pytest.raises(RuntimeWarning):
            recall("forward a")
        assert recall("forward a") is None

    def test_files_that_others_left_half_written_are_no_choices(self, files):
        (wisdom_path() / f".{'0' * 32}.partial").write_bytes(b"torn")
        assert recalled() == CHOICES


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
        assert len(list(wisdom_path().iterdir())) == 3 * 100 + 1

    def test_threads_too(self):
        def work(thread):
            for turn in range(20):
                remember(f"{thread} {turn}", {"thread": thread})
                assert recall(f"{thread} {turn}") == {"thread": thread}

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert len(list(wisdom_path().iterdir())) == 160


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

    def test_full_disk(self, files, monkeypatch):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as disk:
            disk.setattr(os, "replace", full)
            with pytest.warns(RuntimeWarning, match="No space left on device"):
                remember("forward a", {"new": 1})
        assert recall("forward a") == {"new": 1}
        record = json.loads(disk_cache.read_checked(files["forward a"]))
        assert record["choice"] == CHOICES["forward a"]
        remember("forward a", {"new": 2})  # there is space again
        assert recall("forward a") == {"new": 2}
        assert set(wisdom_path().iterdir()) == set(files.values())

    def test_a_directory_in_the_place_of_a_file(self):
        path = wisdom._file(wisdom_path(), "a")
        path.mkdir(parents=True)
        with pytest.warns(RuntimeWarning, match="cannot be read"):
            assert recall("a") is None
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            remember("a", {})
        assert recall("a") == {}
        with pytest.raises(OSError):
            forget()

    def test_a_file_in_the_place_of_the_directory(self):
        wisdom_path().parent.mkdir(parents=True)
        wisdom_path().touch()
        assert recall("a") is None
        with pytest.raises(OSError, match=f"{wisdom_path()}: cannot be written"):
            check_writable()
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            remember("a", {})
        assert recall("a") == {}

    def test_asking_leaves_nothing(self):
        check_writable()
        assert list(wisdom_path().iterdir()) == []


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
    def test_others_are_not_mixed(self, files, monkeypatch, name, value):
        mine = wisdom_path()
        with monkeypatch.context() as another:
            another.setattr(wisdom, name, value)
            wisdom._machine.cache_clear()
            assert wisdom_path() != mine
            assert recall("forward a") is None
            remember("forward a", {"theirs": 1})
            forget()
        wisdom._machine.cache_clear()
        assert recall("forward a") == CHOICES["forward a"]

    @pytest.mark.parametrize(("cpu", "slug"), NAMES.items(), ids=NAMES.values())
    def test_is_a_plain_name(self, monkeypatch, tmp_path, cpu, slug):
        monkeypatch.setattr(wisdom, "__version__", "1.2.3")
        monkeypatch.setattr(wisdom, "cpu_name", lambda: cpu)
        monkeypatch.setattr(wisdom, "host_isa", lambda: ISAS["avx2"])
        monkeypatch.setattr(wisdom.llvm, "get_host_cpu_name", lambda: "core9")
        assert wisdom_path() == tmp_path / "cache" / "wisdom" / f"1.2.3-{slug}-core9-avx2"


class TestForget:
    def test_everything(self, files):
        forget()
        assert list(wisdom_path().iterdir()) == []
        assert [recall(key) for key in CHOICES] == [None] * len(CHOICES)
        remember("a", {"new": 1})
        assert recall("a") == {"new": 1}

    def test_nothing_to_forget(self, monkeypatch, tmp_path):
        forget()
        (tmp_path / "file").touch()
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "file"))
        forget()
