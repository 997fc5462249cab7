"""Topologies as texts of the command line: ``torus:8x8x8,bandwidth=5e9``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from lowerconv.predict.network.dragonfly import Dragonfly
from lowerconv.predict.network.fat_tree import FatTree
from lowerconv.predict.network.switch import Switch
from lowerconv.predict.network.topology import Topology
from lowerconv.predict.network.torus import Torus

KINDS: dict[str, type[Switch | FatTree | Torus | Dragonfly]] = {
    "switch": Switch,
    "fat-tree": FatTree,
    "torus": Torus,
    "dragonfly": Dragonfly,
}
FORM = "KIND:EXTENTS[,NAME=VALUE...], such as switch:64 or torus:8x8x8,bandwidth=5e9"


def parse_topology(text: str, argument: str = "topology") -> Topology:
    """Return the topology that a text describes.

    Parameters
    ----------
    text : str
        Kind, extents and further values: ``switch:64``, ``switch:64,oversubscription=4``,
        ``fat-tree:16x8`` (16 leaf switches of 8 hosts), ``torus:8x8x8``,
        ``torus:4x4x4x2x3x2`` (Tofu), ``dragonfly:9x4x2`` (groups, routers, hosts), each with
        ``bandwidth=`` in bytes/s, ``latency=`` in seconds, and so on, where a default does not do.
    argument : str
        The name of the argument, for errors.

    Returns
    -------
    Topology

    Raises
    ------
    ValueError
        Where the text does not describe one.
    """
    shape, *options = text.split(",")
    kind, colon, extents = shape.partition(":")
    if not colon:
        raise ValueError(f"{argument}: got {text!r}, expected {FORM}")
    if kind not in KINDS:
        raise ValueError(
            f"{argument}: got the kind {kind!r} in {text!r}, expected one of {', '.join(KINDS)}"
        )
    try:
        numbers = tuple(int(extent) for extent in extents.split("x"))
    except ValueError:
        raise ValueError(
            f"{argument}: got the extents {extents!r} in {text!r}, "
            "expected integers with x between them, such as 8x8x8"
        ) from None
    try:
        return KINDS[kind](numbers, **_values(kind, options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {text!r}: {error}") from None


def _values(kind: str, options: list[str]) -> dict[str, Any]:
    """Return what is given by name."""
    known = [field.name for field in fields(KINDS[kind]) if field.name != "shape"]
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in known:
            raise ValueError(f"got {option!r}, expected NAME=VALUE of {', '.join(known)}")
        if name in found:
            raise ValueError(f"{name}: given twice, expected once")
        try:
            found[name] = float(value)
        except ValueError:
            raise ValueError(f"{name}: got {value!r}, expected a number") from None
        if found[name].is_integer():
            found[name] = int(found[name])
    return found
