"""Latencies of streams: all of them at first, then a sample that stays small."""

import numpy as np
import pytest

from lowerconv.bench.latencies import Latencies


def test_percentiles_are_latencies_that_occurred():
    latencies = Latencies()
    assert latencies.percentiles() == ()
    for value in np.random.default_rng(0).permutation(np.arange(1, 1001)):
        latencies.add(float(value))
    assert latencies.percentiles() == (500, 900, 990)
    assert latencies.worst == 1000 and latencies.count == 1000


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 31, 32, 33, 1000])
def test_of_many_an_even_sample_is_kept(count):
    latencies = Latencies(most=4)
    for i in range(count):
        latencies.add(i)
    assert latencies.kept.tolist() == list(range(0, count, latencies.step))
    assert len(latencies.kept) <= 4 and (latencies.step == 1 or len(latencies.kept) > 2)
    assert latencies.worst == count - 1 and latencies.count == count
