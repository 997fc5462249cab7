"""Files that are written whole or not at all, and directories that one process has."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from lowerconv import files, locks
from lowerconv.files import remove_partials, write_atomically
from lowerconv.locks import BusyError, DirectoryLock

posix = pytest.mark.skipif(os.name != "posix", reason="directories are synced on POSIX only")


def failing_fsync(monkeypatch, code, of_directories):
    """Have fsync fail with an error, of directories or of files."""
    real = os.fsync

    def fsync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}") == of_directories:
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", fsync)


linux = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")


@linux
@pytest.mark.parametrize("name", ["EINVAL", "ENOTSUP", "ENOSYS", "EBADF", "EPERM"])
def test_a_directory_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch, name):
    failing_fsync(monkeypatch, getattr(errno, name), True)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@linux
@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("of_directories", [False, True])
def test_what_loses_data_is_an_error_that_names_the_file(
    tmp_path, monkeypatch, name, of_directories
):
    write_atomically(tmp_path / "file", b"before")
    code = getattr(errno, name)
    failing_fsync(monkeypatch, code, of_directories)
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "file", b"content")
    assert caught.value.errno == code
    assert caught.value.filename == str(tmp_path if of_directories else tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == (b"content" if of_directories else b"before")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@posix
def test_a_directory_that_cannot_be_read_is_no_error(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(files.os, "open", refuse)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_the_longest_name_can_be_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), b"content")
    assert (tmp_path / ("n" * 255)).read_bytes() == b"content"


def test_a_folder_that_is_missing_is_named_with_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "away" / "file", b"content")
    assert caught.value.filename == str(tmp_path / "away" / "file")


def test_many_may_write_a_file_at_once(tmp_path):
    """All of them are in the middle of it together: with one name they would mix."""
    everybody = threading.Barrier(4, timeout=60)
    errors = []

    def write(word):
        def content(file):
            for _ in range(50):
                everybody.wait()
                file.write(word * 100)
                file.flush()

        try:
            write_atomically(tmp_path / "file", content)
        except Exception as error:
            errors.append(error)
            everybody.abort()

    threads = [threading.Thread(target=write, args=(word,)) for word in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = (tmp_path / "file").read_bytes()
    assert len(found) == 5000 and len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    for name in (f".{'0a' * 16}.partial", "mine.partial", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes(b"")
    remove_partials(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "mine.partial"]


# Locks

HOLD = """
import sys, time
from pathlib import Path
from lowerconv.locks import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the lock of a directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_directory_belongs_to_one_process(tmp_path, holder):
    with pytest.raises(BusyError, match=rf"{tmp_path}: process {holder.pid} on .* writes there"):
        DirectoryLock(tmp_path).acquire()
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    assert not list(tmp_path.iterdir())
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_killed_process_has_no_directory(tmp_path, holder):
    holder.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    holder.wait()
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    assert [path.name for path in tmp_path.iterdir()] == [locks.NAME]
    lock.release()


def test_within_a_process_a_directory_may_be_had_again(tmp_path):
    first = DirectoryLock(tmp_path)
    second = DirectoryLock(tmp_path / ".")
    first.acquire()
    first.acquire()  # and it is held once
    second.acquire()
    first.release()
    first.release()
    assert (tmp_path / locks.NAME).exists()
    del second
    assert not (tmp_path / locks.NAME).exists()


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_takes_nothing_away(tmp_path):
    lock = DirectoryLock(tmp_path)
    lock.acquire()
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / locks.NAME).exists()
    lock.release()


@pytest.mark.skipif(os.name != "posix", reason="replaces fcntl")
@pytest.mark.parametrize("name", ["ENOLCK", "ENOTSUP", "ENOSYS", "EINVAL"])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, name):
    import fcntl

    def fail(*_):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "lockf", fail)
    lock = DirectoryLock(tmp_path)
    with pytest.warns(RuntimeWarning, match="its file system has no locks"):
        lock.acquire()
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="replaces fcntl")
def test_a_disk_that_fails_is_not_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "lockf", fail)
    with pytest.raises(OSError, match="Input/output"):
        DirectoryLock(tmp_path).acquire()
