"""A calibration that was not measured: times that can be computed with by hand."""

from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.predict.calibration import (
    HOST,
    NETWORK,
    Calibration,
    Crowd,
    LayerSeconds,
    LinkSeconds,
    NetworkFacts,
    ParameterFacts,
    StepSeconds,
)

MIB = 1 << 20


def step_seconds(images: int, second: float = 1.0, **others: float) -> StepSeconds:
    """Return a step of two layers: forward 1 and 1 s, backward 2 and 2."""
    parts = {"loss": 0.0, "update": 0.0, "input": 0.0, "rest": 0.0, "spread": 0.0} | others
    return StepSeconds(
        images=images,
        forward=(LayerSeconds("a", second), LayerSeconds("b", second)),
        backward=(LayerSeconds("b", 2 * second), LayerSeconds("a", 2 * second)),
        arena=images * MIB,
        **parts,
    )


def link_seconds(kind: str, ranks: int = 2, second: float = 0.0, mib: float = 1.0) -> LinkSeconds:
    """Return sums that take some seconds, and some for each MiB, whatever the algorithm."""
    names = [name for name in ALLREDUCE if name != "two-level"]
    taken = {n: dict.fromkeys(names, second + mib * n / MIB) for n in (1 << 14, 2 * MIB)}
    return LinkSeconds(kind, ranks, 0.0, {str(n): seconds for n, seconds in taken.items()})


def calibration(steps=None, links=None, crowds=(), items=MIB // 4, **facts) -> Calibration:
    """Return one of two layers with as many weights each: a MiB unless told otherwise."""
    known = {
        "model": "lenet",
        "data": "fashion-mnist",
        "image_shape": (1, 28, 28),
        "classes": 10,
        "images": 1000,
        "threads": 1,
        "cores": 2,
        "workers": 0,
        "itemsize": 4,
        "kept": 3,
        "epochs": 12,
        "batch": 64,
    }
    return Calibration(
        {"cpu": {"name": "made up"}},
        NetworkFacts(**(known | facts)),
        (ParameterFacts("a", items), ParameterFacts("b", items)),
        tuple(steps or (step_seconds(10), step_seconds(20, 2.0))),
        tuple(Crowd(*crowd, *(0.0,) * (3 - len(crowd))) for crowd in crowds),
        tuple(links if links is not None else (link_seconds(HOST), link_seconds(NETWORK))),
    )
