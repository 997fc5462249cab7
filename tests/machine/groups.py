"""Made-up control groups."""


def write_groups(tmp_path, membership, files):
    """Write a tree of control groups and /proc/self/cgroup; returns both paths."""
    (tmp_path / "membership").write_text(membership)
    (tmp_path / "cgroup").mkdir()
    for path, text in files.items():
        file = tmp_path / "cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return {"cgroup": tmp_path / "cgroup", "proc": tmp_path / "membership"}
