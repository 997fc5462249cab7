"""Several hosts on one machine: ranks in network namespaces, joined by links of a stated rate.

    python -m bench.hosts 3 [--gbit 1] [--ranks 1] -- python -m bench.allreduce

Starts the command on so many hosts with `--ranks` ranks each, and takes everything down again when
it ends, fails or is interrupted.  For Linux, root, iproute2, and Open MPI's mpiexec on the PATH::

    namespace   lowerconv-PID-0    lowerconv-PID-1    ...
                  eth0 10.0.0.1      eth0 10.0.0.2
                    |                  |                  each link --gbit, in both directions
    namespace     port0 ---- bridge -- port1              lowerconv-PID-switch

All of it is in namespaces named after this process: neither the machine's own network nor that of
another user is touched.  Rates are those of the links; latency is what the kernel takes, some tens
of microseconds.  The hosts share the processors and the memory of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

NEEDS = {"ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "mpiexec": "Open MPI"}
PREFIX = "lowerconv"
ON_ONE_MACHINE = (
    "LOWERCONV_HOSTS_GBIT"  # tells ranks that their hosts are made, and the links' rate
)
NETWORK = "10.0.0."  # nobody outside of the namespaces sees it
MOST = 250  # addresses of the network
# A link passes this much at once, and queues this much more: enough for what the kernel hands over
# between two of its ticks.
BURST, QUEUE = "256kb", "4mb"
PATIENCE = 5.0  # seconds between asking a process to end and ending it
# In place of ssh: flags, the name or the address of a host, and the command.
AGENT = """#!/bin/sh
while :; do case "$1" in -*) shift ;; *) break ;; esac; done
host=$1; shift
case "$host" in {network}*) host={name}-$((${{host##*.}} - 1)) ;; esac
exec ip netns exec "$host" unshare --uts /bin/sh -c "echo $host > /proc/sys/kernel/hostname; $*"
"""


class HostsError(RuntimeError):
    """Hosts cannot be made here; the message says what is missing."""


def check() -> None:
    """Raise HostsError unless hosts can be made here."""
    if not sys.platform.startswith("linux"):
        raise HostsError(f"hosts: made of Linux network namespaces, this is {sys.platform}")
    missing = {of for name, of in NEEDS.items() if not shutil.which(name)}
    if missing:
        raise HostsError(f"hosts: need {' and '.join(sorted(missing))}, not found on the PATH")
    if os.geteuid() != 0:
        raise HostsError("hosts: need root, to make network namespaces")
    version = subprocess.run(["mpiexec", "--version"], capture_output=True, text=True).stdout
    if not re.search("Open MPI|OpenRTE|PRRTE", version):
        said = version.splitlines()[0] if version else "nothing"
        raise HostsError(f"hosts: need Open MPI's mpiexec first on the PATH; its version is {said}")


def _run(*command: object, strict: bool = True) -> str:
    """Return what a command prints; raise HostsError with its words where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if strict and done.returncode:
        raise HostsError(f"hosts: {shlex.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Hosts:
    """Hosts that exist within a ``with`` statement.

    Parameters
    ----------
    count : int
    gbit : float
        Rate of each link in Gbit/s, in each direction.

    Attributes
    ----------
    names : list of str
        Of the hosts, and of their namespaces.

    Raises
    ------
    HostsError
        They cannot be made here.
    """

    def __init__(self, count: int, gbit: float = 1.0) -> None:
        if not 1 <= count <= MOST:
            raise ValueError(f"count: got {count}, expected 1 to {MOST}")
        if not gbit > 0:
            raise ValueError(f"gbit: got {gbit}, expected above 0")
        check()
        self.count, self.gbit = count, gbit
        self._prefix = f"{PREFIX}-{os.getpid()}"
        self.switch = f"{self._prefix}-switch"
        self.names = [f"{self._prefix}-{i}" for i in range(count)]
        self._directory: Path | None = None

    def __enter__(self) -> Hosts:
        sweep()
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self._prefix}-"))
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        switch = self.switch
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for i, name in enumerate(self.names):
            port = f"port{i}"
            _run("ip", "netns", "add", name)
            _run(
                "ip", "-n", switch, "link", "add", port, "type", "veth",
                "peer", "name", "eth0", "netns", name,
            )  # fmt: skip
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", name, "address", "add", f"{NETWORK}{i + 1}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")
            for namespace, device in ((name, "eth0"), (switch, port)):
                rate = ("rate", f"{self.gbit * 1e6:.0f}kbit", "burst", BURST, "limit", QUEUE)
                _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf", *rate)
        assert self._directory is not None
        agent = self._directory / "agent"
        agent.write_text(AGENT.format(network=NETWORK, name=self._prefix))
        agent.chmod(0o755)

    def start(self, command: Sequence[str], ranks: int = 1) -> subprocess.Popen[bytes]:
        """Start a command on all hosts, `ranks` processes on each; return the launcher's process.

        The launcher leads a process group of its own.
        """
        assert self._directory is not None
        agent = str(self._directory / "agent")
        environment = os.environ | {
            ON_ONE_MACHINE: str(self.gbit),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "PRTE_MCA_plm_ssh_agent": agent,  # Open MPI 5
            "OMPI_MCA_plm_rsh_agent": agent,  # and 4
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_btl": "^openib,uct,ofi,usnic",
            # Hosts share cores: a rank that waits must let others have them.
            "OMPI_MCA_mpi_yield_when_idle": "1",
        }
        hosts = ",".join(f"{name}:{ranks}" for name in self.names)
        launch = [
            "mpiexec", "--host", hosts, "--bind-to", "none", "-n", str(self.count * ranks), *command
        ]  # fmt: skip
        # The first host is where the launcher runs, under that host's name.
        return subprocess.Popen(
            [agent, self.names[0], shlex.join(launch)], env=environment, start_new_session=True
        )

    def run(self, command: Sequence[str], ranks: int = 1) -> int:
        """Run a command on all hosts as `start` does; return its exit code."""
        process = self.start(command, ranks)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                _end([process.pid], group=True)
                process.wait()

    def close(self) -> None:
        """End what runs on the hosts, and take them away."""
        for name in (*self.names, self.switch):
            _remove(name)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


def _remove(name: str) -> None:
    """End the processes of a namespace, and take it away with its devices."""
    if name not in _namespaces():
        return
    _end([int(pid) for pid in _run("ip", "netns", "pids", name, strict=False).split()])
    _run("ip", "netns", "delete", name, strict=False)


def _namespaces() -> set[str]:
    lines = _run("ip", "netns", "list", strict=False).splitlines()
    return {line.split()[0] for line in lines if line.strip()}


def _end(pids: Sequence[int], group: bool = False) -> None:
    """Ask processes to end, and end those that do not."""
    kill = os.killpg if group else os.kill
    left = set(pids)
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + PATIENCE
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                kill(pid, number)
        while left and time.monotonic() < until:
            left = {pid for pid in left if _alive(pid)}
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    """Return whether a process is there and not only its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def sweep() -> None:
    """Take away hosts whose makers were killed before they could."""
    for name in _namespaces():
        if _is_left(name):
            _remove(name)
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*"):
        if _is_left(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _is_left(name: str) -> bool:
    """Return whether the maker of what has a name is gone."""
    found = re.fullmatch(rf"{PREFIX}-(\d+)-\w+", name)
    return found is not None and not _alive(int(found[1]))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP leave ``with`` statements, as Ctrl-C does."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def main() -> None:
    """Run a command on hosts; exit with its code."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.hosts",
        usage="%(prog)s [-h] HOSTS [--gbit GBIT] [--ranks RANKS] -- COMMAND ...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("hosts", type=int, help="how many")
    parser.add_argument("--gbit", type=float, default=1.0, help="of each link (%(default)s)")
    parser.add_argument("--ranks", type=int, default=1, help="on each host (%(default)s)")
    arguments, command = sys.argv[1:], []
    if "--" in arguments:  # the command has options of its own
        at = arguments.index("--")
        arguments, command = arguments[:at], arguments[at + 1 :]
    options = parser.parse_args(arguments)
    if not command:
        parser.error("no command, expected one behind --")
    try:
        with ended_by_signals(), Hosts(options.hosts, options.gbit) as hosts:
            code = hosts.run(command, options.ranks)
    except (HostsError, ValueError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code)


if __name__ == "__main__":
    main()
