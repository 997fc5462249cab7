"""Which algorithm is chosen, of times that were measured."""

import pytest

from lowerconv.parallel.comm.choice import Chosen, steps_of

KIB, MIB = 1 << 10, 1 << 20


def line(latency: float, rate: float) -> dict[int, float]:
    return {n: latency + n / rate for n in (16 * KIB, 4 * MIB)}


@pytest.mark.parametrize("order", [1, -1])
def test_small_messages_change_where_the_lines_cross(order):
    lines = {"tree": line(1e-4, 3e7), "ring": line(5e-4, 9e7), "library": line(1e-3, 3e7)}
    names = list(lines)[::order]
    seconds = {n: {name: lines[name][n] for name in names} for n in (16 * KIB, 4 * MIB)}
    (most, first), (largest, second) = steps_of(seconds)
    assert (first, largest, second) == ("tree", 4 * MIB, "ring")
    assert most == pytest.approx(4e-4 / (1 / 3e7 - 1 / 9e7), abs=1)
    chosen = Chosen(steps_of(seconds))
    assert chosen.longest == 0.0
    assert Chosen(steps_of(seconds), seconds).longest == lines["ring"][4 * MIB]
    assert [chosen.name_of(n) for n in (1, most, most + 1, 1 << 40)] == ["tree"] * 2 + ["ring"] * 2


def measured(small: dict[str, float], large: dict[str, float]) -> list[str]:
    return [name for _, name in steps_of({1 << 14: small, 1 << 22: large})]


def test_the_library_is_for_large_ones_only():
    large = {"library": 1.0, "ring": 1.5, "tree": 3.0}
    assert measured({"library": 1.0, "ring": 3.0, "tree": 2.0}, large) == ["library"]
    assert measured({"library": 2.0, "ring": 3.0, "tree": 1.0}, large) == ["tree", "library"]
    assert measured({"library": 0.1, "ring": 1.0, "tree": 2.0}, large | {"ring": 0.9}) == ["ring"]


def test_a_ring_is_preferred_where_others_are_hardly_faster():
    small = {"ring": 1.0, "direct": 1.0}
    assert measured(small, {"ring": 1.05, "direct": 1.0}) == ["ring"]
    assert measured(small, {"ring": 1.2, "direct": 1.0}) == ["direct"]


def test_one_size():
    assert steps_of({100: {"ring": 1.0, "direct": 0.5}}) == [(100, "direct")]
