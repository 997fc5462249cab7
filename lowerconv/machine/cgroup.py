"""Control groups: what a container or a batch system leaves of the machine to this process."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def read_or_none(path: Path) -> str | None:
    """Text of a kernel file without surrounding white space; None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").strip()
    except OSError:
        return None


def control_groups(
    controller: str, cgroup: Path = CGROUP, proc: Path = PROC_CGROUP
) -> Iterator[Path]:
    """Directories of the control groups that this process is in, each before its parent.

    Parameters
    ----------
    controller : str
        ``"cpu"``, ``"memory"``...: selects the hierarchy of version 1; version 2 has only one.
    cgroup : Path
        Where the hierarchies are mounted.
    proc : Path
        The kernel's list of the groups of this process.

    Yields
    ------
    Path
        Existing directories, up to the root of each mount. A container often mounts its own group
        as that root while `proc` tells the path on the host: only the root exists then.

    References
    ----------
    cgroups(7), section "/proc files".
    """
    memberships = read_or_none(proc) or f"0::/\n1:{controller}:/"
    for line in memberships.splitlines():
        _, _, named = line.partition(":")
        controllers, _, path = named.partition(":")
        if not controllers:
            mounts = [cgroup, cgroup / "unified"]  # version 2, alone or beside version 1
        elif controller in controllers.split(","):
            # "cpu" is often a link to "cpu,cpuacct".
            mounts = list(dict.fromkeys([cgroup / controller, cgroup / controllers]))
        else:
            continue
        parts = PurePosixPath(path).parts[1:]
        if ".." in parts:  # a group outside of this namespace: only the mount itself can be seen
            parts = ()
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                group = mount.joinpath(*parts[:depth])
                if group.is_dir():
                    yield group


def cpu_quota(cgroup: Path = CGROUP, proc: Path = PROC_CGROUP) -> float | None:
    """CPU time that the control groups allow this process, in CPUs.

    Parameters
    ----------
    cgroup, proc : Path
        As for `control_groups`.

    Returns
    -------
    float or None
        For example 1.5: one and a half seconds of CPU time in each second. The smallest quota on
        the path from the process's group to the root, of versions 1 and 2; None without any.
    """
    quotas = []
    for group in control_groups("cpu", cgroup, proc):
        version2 = (read_or_none(group / "cpu.max") or "").split()
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        version1 = [read_or_none(group / name) or "" for name in files]
        for pair in (version2, version1):
            # No limit reads "max 100000" in version 2 and "-1" in version 1.
            if len(pair) == 2 and all(re.fullmatch("0*[1-9][0-9]*", number) for number in pair):
                quotas.append(int(pair[0]) / int(pair[1]))
    return min(quotas, default=None)
