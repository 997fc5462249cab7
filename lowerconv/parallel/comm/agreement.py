"""What ranks must have in common: versions, settings, data and weights, compared by checksum."""

from __future__ import annotations

import ctypes
import json
import platform
import zlib
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import llvmlite
import numba
import numpy as np

from lowerconv.data.source import Source
from lowerconv.machine.topology import format_cpu_list
from lowerconv.nn.module import Module
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.version import __version__

#: So many images of a data set are looked at: shards are read and verified around each.
IMAGES = 8
#: So many differences are told; after an upgrade of one host there is no end of them.
TOLD = 4
#: Values longer than this are cut to where they begin to differ.
LONG = 60


class DisagreementError(RuntimeError):
    """Ranks that do not belong together; the message names what differs, where, and how."""


def versions() -> dict[str, str]:
    """Return the versions of what decides a rank's results."""
    found = {"lowerconv": __version__, "python": platform.python_version()}
    return found | {package.__name__: package.__version__ for package in (np, numba, llvmlite)}


def describe_data(part: str, source: Source) -> dict[str, Any]:
    """Return facts that tell a data set from others: all its labels, and some of its images.

    Parameters
    ----------
    part : str
        What it is for, such as ``"test"``.
    source : Source

    Returns
    -------
    dict
        JSON-able values by name.

    Raises
    ------
    DataError
        One of the images is damaged.
    """
    chosen = np.unique(np.linspace(0, len(source) - 1, IMAGES).astype(np.int64))
    pixels = source.locate(chosen)
    checksum = 0
    for address, (height, width) in zip(pixels.addresses, pixels.sizes.tolist(), strict=True):
        nbytes = source.image_shape[0] * height * width
        checksum = zlib.crc32(ctypes.string_at(int(address), nbytes), checksum)
    facts = {
        "name": source.name,
        "size": len(source),
        "image shape": list(source.image_shape),
        "stored size": list(source.stored_size),
        "classes": list(source.classes),
        "checksum of the labels": f"{zlib.crc32(source.labels.astype('<i8').tobytes()):08x}",
        "checksum of some images": f"{checksum:08x}",
    }
    return {f"{part} images: {name}": value for name, value in facts.items()}


def describe_parameters(network: Module) -> dict[str, Any]:
    """Return the shapes of all parameters and buffers, by name."""
    arrays = {name: parameter.data for name, parameter in network.parameters().items()}
    return {
        f"parameter {name}": f"{array.dtype} {array.shape}"
        for name, array in (arrays | network.buffers()).items()
    }


def check_facts_agree(communicator: Communicator, facts: Mapping[str, Any]) -> None:
    """Raise on all ranks if any two differ in a fact; all ranks call it together.

    Parameters
    ----------
    communicator : Communicator
    facts : mapping of str to object
        JSON-able values by name. Ranks may even know different names.

    Raises
    ------
    DisagreementError
        The first facts that differ: which ranks have which value.
    """
    mine = {name: json.dumps(value) for name, value in facts.items()}
    checksum = zlib.crc32(json.dumps(mine).encode())
    if len(set(communicator.gather(checksum))) == 1:
        return  # on a thousand ranks only checksums travel
    everyone = communicator.gather(mine)
    names = dict.fromkeys(name for known in everyone for name in known)
    different = [
        f"{name} is {told}"
        for name in names
        if (told := _who_has_what([known.get(name, "nothing") for known in everyone]))
    ]
    if not different:  # flat arrays are in the order of their parameters
        orders = map(_who_has_what, zip(*everyone, strict=True))
        different = [f"the first name that is in another place is {next(filter(None, orders))}"]
    more = [f"and {len(different) - TOLD} more differ"] if len(different) > TOLD else []
    raise DisagreementError(
        "ranks that do not belong together: " + "; ".join(different[:TOLD] + more)
    )


def check_weights_agree(communicator: Communicator, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise on all ranks if their arrays differ in a single bit: they would train apart.

    Parameters
    ----------
    communicator : Communicator
    arrays : mapping of str to ndarray
        Those that every rank has whole, such as all parameters: equal names, in equal order, on
        each. Of a network whose parts are spread over the ranks, the parts that are not.

    Raises
    ------
    DisagreementError
        Names the first that differs, and the ranks.
    """
    whole = 0
    for array in arrays.values():
        whole = zlib.crc32(_bytes(array), whole)
    if len(set(communicator.gather(whole))) == 1:
        return
    each = communicator.gather([zlib.crc32(_bytes(array)) for array in arrays.values()])
    differing = [
        (name, told)
        for name, sums in zip(arrays, zip(*each, strict=True), strict=True)
        if (told := _who_has_what([f"{checksum:08x}" for checksum in sums]))
    ]
    name, told = differing[0]
    raise DisagreementError(
        f"weights differ between ranks, in {len(differing)} of {len(arrays)} parameters, first in "
        f"{name!r}: its checksum is {told}"
    )


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _who_has_what(values: Sequence[str]) -> str:
    """Write each value with the ranks that have it, the most common first; "" if all are equal."""
    ranks: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(rank)
    if len(ranks) == 1:
        return ""
    same = sum(
        1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*ranks, strict=False))
    )
    return ", ".join(
        f"{_shorten(value, same)} on rank{'s' * (len(owners) > 1)} {format_cpu_list(owners)}"
        for value, owners in sorted(ranks.items(), key=lambda entry: (-len(entry[1]), entry[1]))
    )


def _shorten(value: str, same: int) -> str:
    """Leave out what long values have in common before they differ, and what comes long after."""
    if len(value) <= LONG:
        return value
    begin = max(0, same - LONG // 4)
    end = begin + LONG
    return "..." * (begin > 0) + value[begin:end] + "..." * (end < len(value))
