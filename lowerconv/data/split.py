"""Images held out of a training set, for validation."""

from __future__ import annotations

import numpy as np

from lowerconv.data.dataset import DataError, Dataset


def hold_out(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return what is left of a dataset, and the images held out of it.

    Parameters
    ----------
    dataset
    fraction
        Of the images, above 0 and below 1, drawn by chance; rounded to whole images.
    seed
        Decides which; not affected by what else is drawn from the same seed.

    Raises
    ------
    DataError
        If one of the two would be empty.

    Examples
    --------
    >>> from lowerconv.data import load
    >>> train, validation = hold_out(load("fashion-mnist")[0], 0.1, seed=0)
    >>> len(train), len(validation)
    (7650, 850)
    """
    count = len(dataset)
    held = round(count * fraction)
    if not 0 < held < count:
        raise DataError.at(
            f"dataset {dataset.name!r}",
            f"validation of {fraction:g}",
            f"{held} of {count} images",
            "at least one image to validate and one to train with",
        )
    order = np.random.default_rng([seed, count, 0x5EED]).permutation(count)
    # Both keep the order of the set.
    chosen = np.sort(order[held:]), np.sort(order[:held])
    train, validation = (
        Dataset(dataset.name, dataset.images[part], dataset.labels[part], dataset.classes)
        for part in chosen
    )
    return train, validation
