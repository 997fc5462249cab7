"""Sums of several buckets: when they begin, and how they share links."""

import numpy as np
import pytest

from lowerconv.predict.network.buckets import Bucket, sum_buckets
from lowerconv.predict.network.text import parse_topology

SWITCH = parse_topology("switch:4,bandwidth=1e9,latency=0")
ONE = 6 * 1000e-9  # seconds of a ring of 4,000 bytes


@pytest.mark.parametrize("form", ["full", "compact"])
def test_one_after_the_other(form):
    buckets = [Bucket(1000, 0.0)] * 3
    end = sum_buckets(SWITCH, buckets, "ring", at_once=1, form=form)
    np.testing.assert_allclose(end, np.array([[1], [2], [3]]) * ONE * np.ones(4), rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "compact"])
def test_two_at_once_share_links(form):
    end = sum_buckets(SWITCH, [Bucket(1000, 0.0)] * 4, "ring", form=form)
    np.testing.assert_allclose(end, np.array([[2], [2], [4], [4]]) * ONE * np.ones(4), rtol=1e-6)


@pytest.mark.parametrize("form", ["full", "compact"])
def test_none_begins_before_it_is_ready(form):
    late = np.array([0.0, 0.0, 1.0, 0.0])
    end = sum_buckets(SWITCH, [Bucket(1000, 0.5), Bucket(2000, late)], "ring", form=form)
    np.testing.assert_allclose(end, [[0.5 + ONE] * 4, [1 + 2 * ONE] * 4], rtol=1e-6)


def test_the_algorithm_may_depend_on_the_size():
    asked = []

    def choose(nbytes):
        asked.append(nbytes)
        return "tree" if nbytes < 1000 else "ring"

    end = sum_buckets(SWITCH, [Bucket(100, 0.0), Bucket(1000, 1.0)], choose)
    assert asked == [400, 4000]
    np.testing.assert_allclose(end.max(axis=1), [4 * 400e-9, 1 + ONE], rtol=1e-6)


def test_nothing_to_sum():
    assert sum_buckets(SWITCH, [], "ring").shape == (0, 4)
    with pytest.raises(ValueError, match="at_once: got 0, expected at least 1"):
        sum_buckets(SWITCH, [], "ring", at_once=0)
