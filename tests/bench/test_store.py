"""Saved runs: round trips, damaged files, and what makes two of them incomparable."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from lowerconv.bench import compare, store
from lowerconv.bench.tables import TABLES

from .made_up import LITERATURE, made_up


@pytest.mark.parametrize("table", LITERATURE)
def test_round_trip(tmp_path, table):
    result = made_up(table)
    path = store.save(result, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / f"{table}.json"
    assert store.load(path.parent, table) == result
    assert store.saved_tables(path.parent, TABLES) == [table]
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def change(path, **parts):
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


DAMAGES = {
    "cut-off": (lambda p: p.write_text(p.read_text()[:200]), "damaged or no JSON"),
    "binary": (lambda p: p.write_bytes(b"\xff\xfe\x00PNG"), "damaged or no JSON"),
    "empty": (lambda p: p.write_text(""), "damaged or no JSON"),
    "another-program": (lambda p: p.write_text('{"a": 1}'), "not saved by"),
    "a-list": (lambda p: p.write_text("[1, 2]"), "not saved by"),
    "another-format": (lambda p: change(p, format="lowerconv bench 99"), "not saved by"),
    "another-table": (lambda p: change(p, table="alexnet"), "got table 'alexnet', expected 'cif"),
    "no-rows": (lambda p: change(p, rows=[]), "damaged (ValueError: rows: got none"),
    "rows-of-another-kind": (lambda p: change(p, rows=[3]), "damaged (TypeError"),
    "no-machine": (lambda p: change(p, machine={}), "damaged (KeyError: 'cpu')"),
    "no-peak": (lambda p: change(p, conditions={"peak": 0}), "damaged (ValueError: peak"),
    "no-threads": (lambda p: change(p, setting={"batch": 3}), "damaged (KeyError: 'threads')"),
    "negative-time": (
        lambda p: change(p, rows=[{"labels": {}, "facts": {}, "seconds": {"fused": [-1.0]}}]),
        "damaged (ValueError: seconds of fused",
    ),
    "no-number": (
        lambda p: change(p, rows=[{"labels": {}, "facts": {}, "seconds": {"fused": ["1"]}}]),
        "damaged (ValueError: seconds of fused",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_and_foreign_files(tmp_path, damage, message):
    path = store.save(made_up("cifar10"), tmp_path)
    damage(path)
    with pytest.raises(store.FileError) as caught:
        store.load(tmp_path, "cifar10")
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text


def test_folders_without_a_run(tmp_path):
    with pytest.raises(store.FileError, match="no such folder"):
        store.saved_tables(tmp_path / "missing", TABLES)
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(store.FileError, match=r"no saved run, expected one of cifar10\.json, goo"):
        store.saved_tables(tmp_path, TABLES)


def printed(old, new):
    console = Console(width=100, file=io.StringIO())
    console.print(compare.comparison(old, new, compare.differences(old, new)))
    text = console.file.getvalue() + "\n".join(compare.notes(old, new))
    assert "…" not in text
    return [" ".join(line.split()) for line in text.splitlines()]


def test_equal_machines():
    old, new = made_up("cifar10"), made_up("cifar10", ratio=0.5)
    # Where files lie, MPI and the version of the library itself do not matter.
    new.machine["environment"]["NUMBA_CACHE_DIR"] = "/two"
    new.machine["mpi"]["library"] = "Open MPI"
    new.machine["versions"] |= {"lowerconv": "0.2.0", "mpi4py": "4.2"}
    new.machine["blas"][0] |= {"path": "/elsewhere", "threads": 1}
    new.machine["cores"]["threads_in_use"] = 1
    assert compare.differences(old, new) == []
    lines = printed(old, new)
    assert "conv1 forward lowering 4.00 2.00 2.00" in lines
    assert "geometric mean 2.00" in lines
    assert any(
        line.startswith("lowerconv 0.1.0 before, 0.2.0 now; FMA peak 1000") for line in lines
    )
    assert not any("comparable" in line.lower() for line in lines)


def test_every_difference_is_named():
    old, new = made_up("cifar10"), made_up("cifar10", batch=50)
    new.machine["cpu"]["name"] = "Maker 10000"
    new.machine["cpu"]["instruction_set"] = "avx2"
    new.machine["cores"]["usable"]["cores"] = 4
    new.machine["blas"][0] |= {"kernels": "Haswell", "version": "0.3.31"}
    new.machine["versions"] |= {"numpy": "2.5.0"}
    new.machine["environment"] |= {"LOWERCONV_ISA": "avx2"}
    new.machine["numa_nodes"].append({"number": 1, "cpus": [3]})
    new.machine["caches"][0]["bytes"] = 1 << 20
    new = dataclasses.replace(new, setting=new.setting | {"threads": 4})
    assert compare.differences(old, new) == [
        ("threads", "3", "4"),
        ("batch", "100", "50"),
        ("cpu.name", "Maker 9999", "Maker 10000"),
        ("cpu.instruction_set", "avx512", "avx2"),
        ("cores.usable.cores", "3", "4"),
        ("caches.L3 unified", "1 of 33554432 bytes", "1 of 1048576 bytes"),
        ("blas.scipy.version", "0.3.30", "0.3.31"),
        ("blas.scipy.kernels", "SkylakeX", "Haswell"),
        ("versions.numpy", "2.4.6", "2.5.0"),
        ("numa_nodes.1", "nothing", "1"),
        ("environment.LOWERCONV_ISA", "nothing", "avx2"),
    ]
    lines = printed(old, new)
    assert "cifar10: before, and now (NOT COMPARABLE)" in lines
    assert "conv1 forward lowering 4.00 4.00 1.00 not comparable" in lines
    assert not any("geometric mean" in line for line in lines)


def test_rows_of_one_run_only():
    old, new = made_up("cifar10", layers="conv[12]"), made_up("cifar10", layers="conv[23]")
    lines = printed(old, new)
    assert "conv1 forward fused 1.00 - -" in lines
    assert "conv2 forward fused 1.00 1.00 1.00" in lines
    assert "conv3 forward fused - 1.00 -" in lines


def test_reports_of_another_make_do_not_end_a_comparison():
    old, new = made_up("cifar10"), made_up("cifar10")
    old.machine["blas"] = None
    del old.machine["caches"]
    names = [name for name, _, _ in compare.differences(old, new)]
    assert "blas" in names
    assert "caches.L3 unified" in names
