"""The loader: the same batches from any number of threads and ranks, ahead of their use."""

import time

import numpy as np
import pytest

from lowerconv.data import Augment, DataError, Dataset, Loader, Normalizer, load, pack, writer
from lowerconv.data.ahead import Stream, Threads
from lowerconv.data.order import epoch_order

EVERYTHING = Augment.parse("crop,zoom,flip,rotate,lens,vignette,cast")


def dataset(count=61, shape=(3, 12, 14), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    return Dataset("random", images, rng.integers(0, 3, count), ("a", "b", "c"))


def loader(source=None, batch=10, **options):
    source = dataset() if source is None else source
    return Loader(source, Normalizer(source), batch, **options)


@pytest.fixture(scope="module")
def shards(tiny_fashion, tmp_path_factory):
    """203 images in 5 shards, several blocks each."""
    directory = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_BYTES", 4_000)
        pack(f"fashion-mnist:{tiny_fashion}", directory, shard_bytes=40_000)
    return directory


def assert_same(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.labels, b.labels)
        np.testing.assert_array_equal(a.images, b.images)  # bit for bit
        assert (a.first_sample, a.size) == (b.first_sample, b.size)


# The same batches


@pytest.mark.parametrize("augment", [None, EVERYTHING], ids=["as-they-are", "augmented"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_change_nothing(workers, augment, shards):
    for source in (dataset(), load(f"shards:{shards}")[0]):
        expected = loader(source, augment=augment, workers=0)
        for ahead in (1, 3, 50):
            with_threads = loader(source, augment=augment, workers=workers, ahead=ahead)
            for epoch in range(2):
                assert_same(with_threads.batches(4, epoch), expected.batches(4, epoch))
            assert_same(with_threads.batches(), expected.batches())
            with_threads.close()


def test_shards_give_what_memory_gives(shards, tiny_fashion):
    memory, mapped = load(f"fashion-mnist:{tiny_fashion}")[0], load(f"shards:{shards}")[0]
    for augment in (None, EVERYTHING):
        expected = loader(memory, augment=augment)
        assert expected.workers == (1 if augment else 0)
        found = loader(mapped, augment=augment)
        assert found.workers == 1
        assert_same(found.batches(9, 1), expected.batches(9, 1))


def test_augmented_batches_are_the_images_changed():
    source = dataset(30, (3, 20, 22))
    batches = loader(source, augment=EVERYTHING, workers=2)
    to = batches.normalizer
    for batch in batches.batches(5, 3):
        for image, index in zip(batch.images, batch.indices, strict=True):
            changed = EVERYTHING(source.images[index], seed=5, epoch=3, index=int(index))
            value = (image - to.shift[:, None, None]) / to.scale[:, None, None]
            np.testing.assert_allclose(value, changed, atol=0.51)  # which was rounded


def test_images_in_order_are_not_changed():
    source = dataset()
    found = list(loader(source, augment=EVERYTHING, workers=1).batches())
    np.testing.assert_array_equal(np.concatenate([b.indices for b in found]), np.arange(61))
    expected = Normalizer(source)(source.images, np.arange(61))
    np.testing.assert_array_equal(np.concatenate([b.images for b in found]), expected)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 13])
@pytest.mark.parametrize(("count", "batch"), [(61, 10), (61, 7), (7, 100), (40, 8), (1, 1)])
def test_ranks_share_without_loss_or_repeat(count, batch, ranks):
    source = dataset(count, (1, 4, 5))
    alone = loader(source, batch, augment=EVERYTHING, workers=0)
    parts = [
        loader(source, batch, rank=rank, ranks=ranks, augment=EVERYTHING, workers=rank % 2)
        for rank in range(ranks)
    ]
    orders = []
    for epoch in range(3):
        seen = []
        rows = zip(alone.batches(1, epoch), *(p.batches(1, epoch) for p in parts), strict=True)
        for whole, *shares in rows:
            assert sum(len(share.labels) for share in shares) == whole.size == len(whole.labels)
            assert {share.size for share in shares} == {whole.size}
            starts = np.cumsum([0, *(len(share.labels) for share in shares)])[:-1]
            assert [share.first_sample for share in shares] == starts.tolist()
            for name in ("indices", "labels", "images"):
                together = np.concatenate([getattr(share, name) for share in shares])
                np.testing.assert_array_equal(together, getattr(whole, name))
            seen.extend(whole.indices)
        assert sorted(seen) == list(range(count))
        orders.append(tuple(seen))
    assert count == 1 or len(set(orders)) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_after_any_batch(workers):
    source = dataset(33)
    whole = list(loader(source, 5, augment=EVERYTHING, workers=0).batches(2, 6))
    for done in range(len(whole) + 1):
        first = loader(source, 5, augment=EVERYTHING, workers=workers)
        batches = first.batches(2, 6)
        for _ in range(done):
            next(batches)
        batches.close()
        epoch, position = first.state if done else (6, 0)
        assert (epoch, position) == (6, min(5 * done, 33))
        again = loader(source, 5, augment=EVERYTHING, workers=workers)
        assert_same(again.batches(2, epoch, position), whole[done:])


def test_prefetched_batches_are_used_where_they_are_the_right_ones():
    expected = loader(workers=0, augment=EVERYTHING)
    found = loader(workers=1, augment=EVERYTHING)
    for begun in ((3, 1), (3, 2), (8, 1), (None, 0)):
        found.prefetch(*begun)
        assert_same(found.batches(3, 1), expected.batches(3, 1))
        assert_same(found.batches(3, 1), expected.batches(3, 1))


def test_larger_images_are_cut_in_the_middle(shards):
    source = load(f"shards:{shards}?size=20")[0]
    whole = load(f"shards:{shards}")[0]
    assert source.image_shape == (1, 20, 20)
    for small, large in zip(loader(source, 50).batches(), loader(whole, 50).batches(), strict=True):
        np.testing.assert_array_equal(small.images, large.images[..., 4:24, 4:24])


# Order


class OnDisk:
    """Only what an order depends on: runs of images of different lengths."""

    def __init__(self, lengths, bytes_per_image):
        begins = np.cumsum([0, *lengths])
        self.count = int(begins[-1])
        sizes = np.array(lengths) * bytes_per_image
        self.runs = np.stack([begins[:-1], sizes], axis=1)

    def __len__(self):
        return self.count


def test_order_in_windows():
    rng = np.random.default_rng(3)
    source = OnDisk(rng.integers(1, 30, 500), 100)
    total = int(source.runs[:, 1].sum())
    run_of = np.repeat(np.arange(500), np.diff(np.append(source.runs[:, 0], len(source))))
    for window in (total, total // 3, total // 10, 3_000, 1):
        order = epoch_order(source, 5, 2, window)
        np.testing.assert_array_equal(np.sort(order), np.arange(len(source)))
        np.testing.assert_array_equal(order, epoch_order(source, 5, 2, window))
        assert (order != epoch_order(source, 5, 3, window)).any()
        # Runs are begun and finished within a window: every run is read once.
        place = np.argsort(order)
        first = np.full(500, len(source))
        np.minimum.at(first, run_of, place)
        last = np.zeros(500, int)
        np.maximum.at(last, run_of, place)
        images = -(-len(source) // -(-total // window)) + 60  # windows differ by a run or two
        assert (last - first).max() <= images
    whole = epoch_order(source, 5, 2, total)
    np.testing.assert_array_equal(whole, np.random.default_rng([5, 2]).permutation(len(source)))


def test_batches_of_a_window_come_from_everywhere():
    source = OnDisk([50] * 4000, 1000)  # 200,000 images, sorted by class, 10 windows
    order = epoch_order(source, 0, 0, window=20_000_000)
    labels = np.arange(len(source)) // 20_000  # ten classes, one after another
    for start in range(0, len(source), 250):
        counts = np.bincount(labels[order[start : start + 250]], minlength=10)
        assert counts.min() >= 5 and counts.max() < 60
    assert np.abs(np.corrcoef(order, np.arange(len(source)))[0, 1]) < 0.1


# Ahead


def test_what_is_ready_is_not_waited_for():
    batches = loader(workers=1, augment=EVERYTHING, ahead=2)
    for epoch in range(2):
        batches.prefetch(0, epoch)
        stream = batches._begun[1]
        for _ in batches.batches(0, epoch):
            deadline = time.monotonic() + 300
            while not all(job.done() for job in stream._pending) and time.monotonic() < deadline:
                time.sleep(0.001)
    report = batches.report()
    assert (report.workers, report.batches, report.waits, report.seconds) == (1, 14, 0, 0)
    assert report.busy_seconds > 0
    assert str(report).startswith("data: 14 batches made ahead by 1 thread in ")
    assert "training never waited" in str(report)


def test_waiting_is_counted(monkeypatch):
    batches = loader(workers=1, augment=EVERYTHING)
    make = batches._make

    def slow(*arguments):
        time.sleep(0.1)
        return make(*arguments)

    monkeypatch.setattr(batches, "_make", slow)
    for _ in batches.batches(0, 0):
        pass
    report = batches.report()
    assert report.batches == 7 and report.busy_seconds > 7 * 0.09
    # On a busy machine this thread may come too late to have to wait for some.
    assert 1 <= report.waits <= 6 and report.seconds > 0.01
    assert f"waited for {report.waits}, {report.seconds:.2f} s in all" in str(report)
    assert "none ahead" in str(loader(workers=0).report())


def test_no_more_than_so_many_ahead():
    started = []
    threads = Threads(3)

    def jobs():
        for number in range(20):
            yield lambda number=number: started.append(number) or number

    stream = Stream(threads, jobs(), depth=4)
    taken = []
    for number in stream:
        time.sleep(0.005)
        taken.append(number)
        assert len(started) <= len(taken) + 4
    assert taken == list(range(20)) and sorted(started) == taken
    threads.close()


def test_an_error_comes_with_its_batch(shards, tmp_path):
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "train-00002.shard"
    data = bytearray(path.read_bytes())
    data[20_000] ^= 4
    path.write_bytes(data)
    source = load(f"shards:{tmp_path}")[0]
    for workers in (0, 1, 3):
        batches = loader(source, 10, workers=workers)
        taken = []
        with pytest.raises(DataError, match=r"train-00002\.shard: records 2\d to .* checksum"):
            taken.extend(batch.size for batch in batches.batches())
        assert taken == [10] * 12  # up to image 120, of those from 100 on in this shard
        with pytest.raises(DataError):  # and again
            list(batches.batches())
        batches.close()


# Where the threads run
