"""Which rows ranks have and need: any layer made of its parts is the layer."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowerconv.parallel.sharding.rows import (
    Rows,
    RowWindow,
    Scale,
    Transfer,
    halos,
    moves,
    part_of,
    pass_windows,
    place_rows,
    row_cuts,
)


@st.composite
def windows(draw):
    extent = draw(st.integers(1, 9))
    above, below = (draw(st.integers(0, extent - 1)) for _ in range(2))
    return RowWindow(extent, draw(st.integers(1, 5)), above, below, draw(st.booleans()))


@st.composite
def divided(draw):
    """Return rows of any number on any ranks, each having at least one."""
    ranks = draw(st.integers(1, 6))
    height = draw(st.integers(ranks, 50))
    inner = st.lists(
        st.integers(1, height - 1), min_size=ranks - 1, max_size=ranks - 1, unique=True
    )
    bounds = sorted(draw(inner)) if ranks > 1 else []
    return Rows((0, *bounds, height), Scale())


def result_rows(window, height):
    return (height + window.above + window.below - window.extent) // window.stride + 1


def convolved(x, weights, stride):
    """Return what windows make of rows with all padding in them."""
    extent = len(weights)
    return np.array([x[i : i + extent] @ weights for i in range(0, len(x) - extent + 1, stride)])


@given(divided(), windows(), st.integers(0, 10**6))
def test_parts_of_a_convolution_are_the_convolution(rows, window, seed):
    """Forward: what a rank makes of its own rows, and at seams of those that it is sent."""
    height, rng = rows.count, np.random.default_rng(seed)
    count = result_rows(window, height)
    if count < 1:
        return
    found = pass_windows(rows, window, rows.bounds[1:-1], count)
    if found is None:
        return
    before, made = found
    assert before.everywhere
    assert made.everywhere
    assert made.count == count
    x, weights = rng.standard_normal(height), rng.standard_normal(window.extent)
    padded = np.pad(x, (window.above, window.below))
    expected = convolved(padded, weights, window.stride)
    parts = [
        part_of(window, own, mine, height)
        for own, mine in zip(before.parts, made.parts, strict=True)
    ]
    transfers = halos(parts, height)
    for rank, part in enumerate(parts):
        own = x[part.own.start : part.own.stop]
        y = convolved(np.pad(own, (part.above, part.below)), weights, window.stride)
        assert len(y) == len(part.made)  # the layer has as many rows as the rank is to make
        for row in range(len(y)):  # and each of them has a row that is there
            begin = row * window.stride - part.above
            assert begin < len(own)
            assert begin + window.extent > 0
        known = {row: x[row] for row in part.own}
        for t in transfers:
            if t.target == rank:
                assert t.source != rank
                assert set(t.rows) <= set(parts[t.source].own)
                assert not set(t.rows) & set(known)  # no row comes twice
                known |= {row: x[row] for row in t.rows}
        for seam in part.seams:
            assert seam.above >= 0 <= seam.below
            inside = [known[row] if 0 <= row < height else 0.0 for row in seam.read]
            again = convolved(np.pad(inside, (seam.above, seam.below)), weights, window.stride)
            first = part.made.start
            y[seam.made.start - first : seam.made.stop - first] = again
        np.testing.assert_allclose(y, expected[part.made.start : part.made.stop], atol=1e-12)
        for one, other in pairwise(part.seams):
            assert one.made.stop <= other.made.start


@given(st.integers(1, 7), st.integers(1, 3000), st.sampled_from([1, 2, 4, 6, 8, 32]))
def test_cuts_are_even_and_multiples(ranks, height, unit):
    cuts = row_cuts(height, ranks, unit)
    rows = place_rows(Scale(), cuts, height)
    if height < ranks:
        return
    assert rows.everywhere
    shares = [len(part) for part in rows.parts]
    if max(shares) > 1.1 * height / ranks:
        assert max(shares) - min(shares) <= 1  # there are few rows
    if height >= 20 * ranks * unit:
        assert not any(cut % unit for cut in cuts)


def test_strides_keep_seams_together():
    """Of ResNet: 7x7, pooling, and at each stage a 3x3 filter beside one of a pixel, stride 2."""
    cuts = row_cuts(1080, 5, 32)
    assert cuts == [224, 448, 640, 864]
    rows = place_rows(Scale(), cuts, 1080)
    for extent, pad in ((7, 3), (3, 1), (3, 1), (3, 1), (3, 1)):
        count = (rows.count + 2 * pad - extent) // 2 + 1
        window, pixel = RowWindow(extent, 2, pad, pad), RowWindow(1, 2, 0, 0)
        (before, made), (other, alike) = (
            pass_windows(rows, w, cuts, count) for w in (window, pixel)
        )
        assert before == other == rows  # nothing has to be moved
        assert made.bounds == alike.bounds
        rows = made
    assert rows.bounds == (0, 7, 14, 20, 27, 34)


def test_windows_far_apart_have_rows_moved():
    rows = Rows((0, 3, 8), Scale())  # row 2 or 4 begins a window, row 3 is in none
    before, made = pass_windows(rows, RowWindow(1, 2, 0, 0), [3], 4)
    assert before.bounds == (0, 4, 8)
    assert made.bounds == (0, 2, 4)
    assert list(moves(rows, before)) == [
        Transfer(0, 0, range(3)),
        Transfer(1, 0, range(3, 4)),
        Transfer(1, 1, range(4, 8)),
    ]


def test_a_rank_without_rows():
    rows = Rows((0, 2, 4, 6), Scale())
    assert pass_windows(rows, RowWindow(5, 1, 0, 0), [2, 4], 2) is None
    assert pass_windows(rows, RowWindow(5, 1, 1, 1), [2, 4], 4) is not None


def test_halo_of_several_ranks():
    """Windows of nine rows reach over ranks that have two."""
    rows = Rows((0, 2, 4, 6, 8), Scale())
    window = RowWindow(9, 1, 4, 4)
    parts = [part_of(window, part, part, 8) for part in rows.parts]
    found = [t for t in halos(parts, 8) if t.target == 0]
    assert found == [Transfer(r, 0, range(2 * r, min(2 * r + 2, 6))) for r in (1, 2)]
    assert [seam.made for seam in parts[1].seams] == [range(2, 4)]


@pytest.mark.parametrize("extent", [1, 2, 3, 7])
def test_middles(extent):
    scale = Scale().through(RowWindow(extent, 2, (extent - 1) // 2, extent // 2))
    assert scale.step == 2
    assert scale.twice_centre == (1 if extent % 2 else 2)
