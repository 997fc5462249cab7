"""The order of an epoch: shuffled, and still read in long pieces where the images are on a disk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lowerconv.data.source import Source

#: Images of so many bytes are shuffled together: they are to stay in memory while they are used.
WINDOW = 1 << 30


def share(count: int, rank: int, ranks: int) -> range:
    """Return the part of ``range(count)`` that belongs to one of the ranks.

    Parts differ by one at most and follow each other in the order of the ranks; some are empty
    where there are fewer items than ranks.
    """
    return range(count * rank // ranks, count * (rank + 1) // ranks)


def epoch_order(
    source: Source, seed: int, epoch: int, window: int = WINDOW
) -> npt.NDArray[np.int64]:
    """Return the numbers of all images, each once, in the order in which an epoch takes them.

    A set in memory, or one that fits into a window, is permuted as a whole. Of a larger one the
    runs that are read in one piece (about 1 MiB of consecutive images) are permuted, wherever they
    are; so many of them as fill a window are taken together, and their images permuted. So the
    images of a batch come from a thousand places of the set, and each run is read once.
    """
    rng = np.random.default_rng([seed, epoch])
    runs, count = source.runs, len(source)
    windows = 1 if runs is None else min(-(-int(runs[:, 1].sum()) // window), len(runs))
    if runs is None or windows == 1:
        return rng.permutation(count)
    sizes = np.diff(np.append(runs[:, 0], count))
    chosen = rng.permutation(len(runs))
    before = np.cumsum(runs[chosen, 1]) - runs[chosen, 1]
    # Windows of the same size: a small last one would be shuffled worse than the others.
    place = before * windows // int(runs[:, 1].sum())
    parts = []
    for group in np.split(chosen, np.searchsorted(place, np.arange(1, windows))):
        images = [np.arange(runs[r, 0], runs[r, 0] + sizes[r]) for r in group]
        if images:
            parts.append(rng.permutation(np.concatenate(images)))
    return np.concatenate(parts)
