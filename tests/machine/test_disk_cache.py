"""Cached files: whole or not there, whoever writes them and whatever happens to them."""

import errno
import os
import sys
from pathlib import Path

import pytest

from lowerconv.machine import disk_cache
from lowerconv.machine.disk_cache import (
    cache_directory,
    cached_file,
    read_checked,
    refusal,
    write_checked,
)

from .processes import run_together


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """Give each test a directory of its own, and a process that has not warned yet."""
    monkeypatch.setenv("LOWERCONV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache, "_told_unwritable", False)
    monkeypatch.setattr(disk_cache, "_told_damaged", False)


@pytest.fixture
def path() -> Path:
    """Return the path of a cached file that is not there yet, nor its directories."""
    return cache_directory() / "code" / "some-kernel.o"


class TestDirectory:
    def test_of_the_environment(self, tmp_path):
        assert cache_directory() == tmp_path / "cache"

    @pytest.mark.parametrize("value", [None, ""])
    def test_of_the_system(self, monkeypatch, value):
        folders = disk_cache.platformdirs
        monkeypatch.setattr(folders, "user_cache_dir", lambda name: f"/system/{name}")
        if value is None:
            monkeypatch.delenv("LOWERCONV_CACHE_DIR")
        else:
            monkeypatch.setenv("LOWERCONV_CACHE_DIR", value)
        assert cache_directory() == Path("/system/lowerconv")

    def test_home_is_understood(self, monkeypatch):
        monkeypatch.setenv("LOWERCONV_CACHE_DIR", "~/somewhere")
        assert cache_directory() == Path.home() / "somewhere"

    @pytest.mark.parametrize("chosen", [None, "~nobody-of-this-name/cache"])
    def test_without_a_home_there_is_none(self, monkeypatch, chosen):
        def no_home(*arguments):
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("LOWERCONV_CACHE_DIR")
        if chosen is None:
            monkeypatch.setattr(disk_cache.platformdirs, "user_cache_dir", no_home)
        else:
            monkeypatch.setenv("LOWERCONV_CACHE_DIR", chosen)
        assert cache_directory() is None
        assert cached_file("code", "kernel.o") is None
        assert read_checked(None) is None
        with pytest.warns(RuntimeWarning, match=r"no home directory.*LOWERCONV_CACHE_DIR names"):
            write_checked(None, b"code")

    def test_is_not_made_before_something_is_written(self, path):
        assert read_checked(path) is None
        assert not cache_directory().exists()
        write_checked(path, b"code")
        assert cache_directory().exists()


CONTENTS = {
    "nothing": b"",
    "a_byte": b"\0",
    "lines": b"one\r\ntwo\n",
    "a_header": disk_cache.MAGIC * 2,
    "a_kernel": bytes(range(256)) * 400,
}


@pytest.mark.parametrize("data", CONTENTS.values(), ids=CONTENTS)
def test_round_trip(path, data):
    write_checked(path, data)
    assert read_checked(path) == data
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_last_one_written_counts(path):
    for data in (b"a long one", b"short"):
        write_checked(path, data)
        assert read_checked(path) == data


def test_below_a_file_there_is_none(tmp_path):
    (tmp_path / "file").touch()
    assert read_checked(tmp_path / "file" / "kernel.o") is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
def test_permissions_are_those_of_any_file(path):
    other = path.parent / "other"
    write_checked(path, b"code")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


class TestDamage:
    DATA = b"eight+16 bytes of code"

    @pytest.fixture
    def content(self, path) -> bytes:
        write_checked(path, self.DATA)
        return path.read_bytes()

    @staticmethod
    def assert_ignored(path):
        disk_cache._told_damaged = False  # as in a new process
        with pytest.warns(RuntimeWarning) as told:
            assert read_checked(path) is None
        (warning,) = told
        assert str(path) in str(warning.message)
        assert "ignored and made again" in str(warning.message)
        assert warning.filename == __file__

    def test_cut_short_anywhere(self, path, content):
        for length in range(len(content)):
            path.write_bytes(content[:length])
            self.assert_ignored(path)

    def test_any_flipped_bit(self, path, content):
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            self.assert_ignored(path)

    @pytest.mark.parametrize("more", [b"\0", b"\n", bytes(512)], ids=len)
    def test_longer(self, path, content, more):
        path.write_bytes(content + more)
        self.assert_ignored(path)

    def test_zeros_of_the_same_length(self, path, content):
        path.write_bytes(bytes(len(content)))
        self.assert_ignored(path)

    def test_another_format(self, path, content):
        path.write_bytes(content.replace(b"cache 1", b"cache 2"))
        with pytest.warns(RuntimeWarning, match="does not begin with b'lowerconv cache 1"):
            assert read_checked(path) is None

    def test_a_directory_in_its_place(self, path):
        path.mkdir(parents=True)
        self.assert_ignored(path)

    def test_not_readable(self, path, content, monkeypatch):
        def refuse(self):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refuse)
        with pytest.warns(RuntimeWarning, match=r"cannot be read \(Permission denied\)"):
            assert read_checked(path) is None

    def test_is_told_once(self, path, content):
        path.write_bytes(b"")
        self.assert_ignored(path)
        assert read_checked(path) is None  # a RuntimeWarning would be an error here

    def test_where_warnings_are_errors_the_second_call_goes_on(self, path, content):
        path.write_bytes(content[:-1])
        with pytest.raises(RuntimeWarning, match="ignored and made again"):
            read_checked(path)
        assert read_checked(path) is None

    def test_is_mended_by_writing_again(self, path, content):
        path.write_bytes(content[:-1])
        self.assert_ignored(path)
        write_checked(path, self.DATA)
        assert read_checked(path) == self.DATA


class TestUnwritable:
    def test_is_told_once(self, tmp_path):
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "below" / "kernel.o"
        with pytest.warns(RuntimeWarning, match="LOWERCONV_CACHE_DIR names another") as told:
            write_checked(path, b"code")
        assert str(path) in str(told[0].message)
        write_checked(path, b"code")  # a RuntimeWarning would be an error here
        assert read_checked(path) is None

    @pytest.mark.parametrize(
        "place", [{"MPI_LOCALRANKID": "1"}, {"OMPI_COMM_WORLD_LOCAL_RANK": "3"}], ids=str
    )
    def test_one_rank_of_a_host_tells_it(self, tmp_path, monkeypatch, place):
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "kernel.o"
        for name, rank in place.items():
            monkeypatch.setenv(name, rank)
        write_checked(path, b"code")  # a RuntimeWarning would be an error here
        monkeypatch.setenv(name, "0")
        with pytest.warns(RuntimeWarning, match="cannot be written"):
            write_checked(path, b"code")

    def test_full_disk_leaves_the_old_contents(self, path, monkeypatch):
        def full(*paths):
            raise OSError(errno.ENOSPC, "No space left on device")

        write_checked(path, b"old")
        monkeypatch.setattr(os, "replace", full)
        with pytest.warns(RuntimeWarning, match="No space left on device"):
            write_checked(path, b"new")
        assert read_checked(path) == b"old"
        assert len(list(path.parent.iterdir())) == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "I/O error")])
    def test_whatever_ends_it_leaves_nothing_behind(self, path, monkeypatch, error):
        def fail(*paths):
            raise error

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises((KeyboardInterrupt, RuntimeWarning)):  # warnings are errors here
            write_checked(path, b"new")
        assert list(path.parent.iterdir()) == []


class TestRefusal:
    def test_none(self, tmp_path):
        assert refusal(tmp_path) is None
        assert refusal(tmp_path / "below" / "it") is None
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "file").touch()
        for place in (tmp_path / "file", tmp_path / "file" / "below"):
            assert refusal(place) == f"{tmp_path / 'file'} is no directory"

    def test_no_permission(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda place, mode: False)
        assert refusal(tmp_path / "below") == f"{tmp_path} cannot be written"

    def test_no_home(self):
        assert refusal(None) == "this user has no home directory"


def test_processes_write_at_once(path):
    """Every read in the middle of it gives one of the contents whole."""
    code = f"""
import time
from pathlib import Path
path = Path({str(path)!r})
end = time.monotonic() + 1
met = set()
while time.monotonic() < end:
    cache.write_checked(path, bytes([number]) * (20_000 * (number + 1)))
    data = disk_cache.read_checked(path)
    assert data == bytes([data[0]]) * (20_000 * (data[0] + 1))
    met.add(data[0])
print(len(met))
"""
    met = [int(output) for output in run_together(3, code)]
    assert max(met) > 1  # they did write at the same time
    assert len(read_checked(path)) % 20_000 == 0
    assert len(list(path.parent.iterdir())) == 1
