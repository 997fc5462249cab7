"""From bytes to float32 with mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowerconv.checks import plain_array
from lowerconv.codegen.compiled import njit
from lowerconv.codegen.ranges import share as part
from lowerconv.conv.arrays import contiguous
from lowerconv.data.source import Source, check_images, check_source, count_bytes
from lowerconv.runtime.launch import run_on_team
from lowerconv.runtime.threads import get_num_threads, parallel_region


@njit(cache=True, nogil=True)
def _look_up_share(worker, workers, images, indices, table, out):
    """Copy the images at `indices`, each byte replaced by its channel's entry in `table`."""
    first, last = part(len(indices), worker, workers)
    for i in range(first, last):
        image = images[indices[i]]
        for c in range(image.shape[0]):
            for h in range(image.shape[1]):
                for w in range(image.shape[2]):
                    out[i, c, h, w] = table[c, image[c, h, w]]


@njit(cache=True, nogil=True)
def _look_up(team, images, indices, table, out):
    run_on_team(team, _look_up_share, (images, indices, table, out))


class Normalizer:
    """Bytes to float32 with mean 0 and deviation 1 per channel over a data set.

    Parameters
    ----------
    images : ndarray, (N, C, H, W), uint8, or Source
        The training images, whose mean and deviation (of value / 255) count.

    Attributes
    ----------
    mean, deviation : ndarray, (C,), float64
    table : ndarray, (C, 256), float32
        What each byte becomes.
    scale, shift : ndarray, (C,), float32
        The same as a line, for values between bytes: ``value * scale + shift``.
    """

    def __init__(self, images: np.ndarray | Source) -> None:
        if isinstance(images, np.ndarray):
            counts = count_bytes(check_images(images, "images", "(N, C, H, W)"))
        else:
            check_source(images, "images")
            counts = images.histogram()
        values = np.arange(256) / 255
        mean = counts @ values / counts.sum(1)
        self._set(mean, np.sqrt(np.maximum(counts @ values**2 / counts.sum(1) - mean**2, 0)))

    @classmethod
    def of(cls, mean: Sequence[float], deviation: Sequence[float]) -> Normalizer:
        """Return one with a known mean and deviation of each channel.

        Parameters
        ----------
        mean, deviation : sequence of float, (C,)
            Of value / 255.

        Returns
        -------
        Normalizer

        Raises
        ------
        TypeError, ValueError
            Not a finite number for each channel, or a negative deviation.
        """
        for name, values in (("mean", mean), ("deviation", deviation)):
            if isinstance(values, np.ndarray):
                plain_array(values, name)
        normalizer = cls.__new__(cls)
        normalizer._set(np.array(mean), np.array(deviation))
        return normalizer

    def _set(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        for name, values, least in (("mean", mean, -np.inf), ("deviation", deviation, 0.0)):
            if values.dtype.kind not in "fiu":
                raise TypeError(f"{name}: got {values.dtype} numbers, expected real ones")
            fine = np.isfinite(values) & (values >= least)
            if values.shape != (mean.size,) or not values.size or not fine.all():
                raise ValueError(f"{name}: got {values}, expected a finite number for each channel")
        self.mean, self.deviation = mean.astype(np.float64), deviation.astype(np.float64)
        values = np.arange(256) / 255
        # A channel of one colour has no deviation: it becomes all zeros.
        divisor = np.where(self.deviation > 0, self.deviation, 1)
        self.table = ((values - self.mean[:, None]) / divisor[:, None]).astype(np.float32)
        self.scale = (1 / (255 * divisor)).astype(np.float32)
        self.shift = (-self.mean / divisor).astype(np.float32)

    def __call__(self, images: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`, (len(indices), C, H, W), float32.

        Raises
        ------
        TypeError, ValueError
            Images that are no bytes or have other channels; an index that is none of theirs.
        """
        plain_array(images, "images")
        if images.dtype != np.uint8:
            raise TypeError(f"images: got dtype {images.dtype}, expected uint8")
        if images.ndim != 4 or images.shape[1] != len(self.table):
            expected = f"(N, {len(self.table)}, H, W)"
            raise ValueError(f"images: got shape {images.shape}, expected {expected}")
        indices = _check_indices(indices, len(images))
        out = np.empty((len(indices), *images.shape[1:]), np.float32)
        with parallel_region(get_num_threads()) as team:
            _look_up(team, images, indices, self.table, out)
        return out


def _check_indices(indices: np.ndarray, count: int) -> np.ndarray:
    """Return indices as kernels take them, which do not ask whether there is such an image."""
    if plain_array(indices, "indices").dtype.kind not in "iu":
        raise TypeError(f"indices: got dtype {indices.dtype}, expected integers")
    if indices.ndim != 1:
        raise ValueError(f"indices: got shape {indices.shape}, expected (n,)")
    if indices.size and not 0 <= indices.min() <= indices.max() < count:
        found = f"{indices.min()} to {indices.max()}"
        raise ValueError(f"indices: got {found}, expected 0 to {count - 1}")
    return contiguous(indices.astype(np.int64, copy=False), "indices")
