"""Which channels each rank has: every one exactly once, and runs that say the same as indices."""

import numpy as np
import pytest

from lowerconv.parallel.sharding.layout import Layout, Segment


def layouts():
    one = Layout.of(7)
    two = one.followed_by(Layout.of(3)).followed_by(Layout.of(12))
    return {"one": one, "three": two, "features": two.flattened(5), "few": Layout.of(2)}


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("name", layouts())
def test_parts(name, ranks):
    layout = layouts()[name]
    indices = [layout.index(rank, ranks) for rank in range(ranks)]
    assert sorted(np.concatenate(indices)) == list(range(layout.items))
    for rank, index in enumerate(indices):
        assert layout.size(rank, ranks) == len(index)
        assert (np.diff(index) > 0).all()
        for here, there, count in layout.runs(rank, ranks):
            assert list(index[here : here + count]) == list(range(there, there + count))
        assert layout.runs(rank, ranks)[:, 2].sum() == len(index)


def test_channels_that_became_features_stay_together():
    assert Layout.of(3).flattened(4).index(0, 2).tolist() == [0, 1, 2, 3]
    assert Layout.of(3).flattened(4).flattened(2).segments == (Segment(0, 3, 8),)
