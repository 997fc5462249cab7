"""Chunks of a batch: every sample in exactly one of them."""

import numpy as np
import pytest

from lowerconv.parallel.comm.engine import Engine
from lowerconv.parallel.sharding.batch_exchange import BatchExchange, make_chunks


@pytest.mark.parametrize("scheme", ["a", "b", "c"])
@pytest.mark.parametrize("counts", [(4, 4), (3, 2, 3), (0, 1, 0, 1), (5,), (0, 0)])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_every_sample_once(scheme, counts, pieces):
    chunks = make_chunks(counts, scheme, pieces)
    assert len(chunks) == {"a": 1, "b": len(counts), "c": pieces}[scheme]
    for rank, count in enumerate(counts):
        assert sorted(i for chunk in chunks for i in chunk.rows[rank]) == list(range(count))
    for chunk in chunks:
        assert chunk.size == sum(map(len, chunk.rows))
        covered = [i for place in chunk.places for i in range(chunk.size)[place]]
        assert covered == list(range(chunk.size))
        having = [rank for rank, rows in enumerate(chunk.rows) if len(rows)]
        assert chunk.owner == (having[0] if len(having) == 1 else None)


def test_the_picture_of_the_schemes():
    shares = ["abcd", "efgh"]
    pictures = {"a": ["abcdefgh"], "b": ["abcd", "efgh"], "c": ["abef", "cdgh"]}
    for scheme, expected in pictures.items():
        chunks = make_chunks([4, 4], scheme, 2)
        names = [
            "".join(s[i] for s, rows in zip(shares, c.rows, strict=True) for i in rows)
            for c in chunks
        ]
        assert names == expected


def test_memory_is_used_again():
    exchange = BatchExchange(Engine())
    chunks = make_chunks([5], "c", 5)
    v, target = np.arange(10.0).reshape(5, 2), np.zeros((5, 2))
    first = exchange.all_gather(v, chunks[0], "border", 0)[1]
    assert exchange.all_gather(v, chunks[2], "border", 0)[1] is not first
    assert np.array_equal(first, v[2:3])
    for chunk in chunks:
        exchange.reduce_gradient(2 * v[chunk.rows[0].start : chunk.rows[0].stop], chunk, target)
    exchange.finish()
    assert np.array_equal(target, 2 * v)
