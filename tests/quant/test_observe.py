"""Ranges of what an observer has seen, by each method."""

import numpy as np

from lowerconv.quant.observe import METHODS, Observer


def outlier():
    x = np.random.default_rng(2).standard_normal(200_000).astype(np.float32)
    x[17] = 60
    return x


def test_ranges_of_outliers():
    observer = Observer(counts=True)
    for part in np.array_split(outlier(), 7):
        observer.see(part)
    assert observer.range("minmax")[1] == 60
    low, high = observer.range("percentile", 99.9)
    # 100 on each side of 200,000 normal numbers
    assert -3.5 < low < -3.1 and 3.1 < high < 3.5
    low, high = observer.range("entropy")
    assert high < 10 and -10 < low < -3


def test_counts_do_not_depend_on_the_order():
    x = outlier()
    observers = [Observer(counts=True) for _ in range(3)]
    for observer, order in zip(observers, (x, x[::-1], np.sort(x)), strict=True):
        for part in np.array_split(np.ascontiguousarray(order), 9):
            observer.see(part)
    for observer in observers[1:]:
        assert np.array_equal(observer.bins, observers[0].bins)
        assert observer.width == observers[0].width
    assert observers[0].bins.sum() == x.size


def test_ranges_of_few_numbers():
    for values in ([0.0, 0.0], [1e-42], [-3.0], [5.0, 5.0]):
        for method in METHODS:
            observer = Observer(counts=True)
            observer.see(np.array(values, np.float32))
            low, high = observer.range(method)
            assert low <= min(values) + 1e-6 and high >= max(values) - 0.01 * abs(max(values))
