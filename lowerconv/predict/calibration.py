"""What was measured of a network on a machine: a file that can be read on any other.

::

    {
      "format": "lowerconv calibration 2",
      "machine": the machine report,
      "network": model, data, images of an epoch, threads of a rank, cores of a host, ...
      "parameters": the layer and the items of each, in the order of the optimizer,
      "steps": seconds of layers, loss, update and input, for some numbers of images,
      "crowds": how much slower ranks are when others of their host compute too,
      "links": seconds of sums within a host, and between hosts
    }
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from lowerconv.arguments import Number, Text
from lowerconv.files import write_atomically
from lowerconv.parallel.comm.collectives import ALLREDUCE
from lowerconv.predict.collective_costs import Link, Links, Placement, fit
from lowerconv.predict.decoding import decoded, unique

FORMAT = "lowerconv calibration 2"
HOST, NETWORK = "host", "network"
KINDS = (HOST, NETWORK)
LONGEST = 1e6  # seconds of anything: more is damage
# What fields may be: `decoded` looks at it.
Seconds = Annotated[float, Number(float, 0, LONGEST)]
Share = Annotated[float, Number(float, 0, 1)]
Count = Annotated[int, Number(int, 1)]
Name = Annotated[str, Text("a name")]


class CalibrationError(ValueError):
    """A file that is no calibration; the message names it and the field at fault."""


@dataclass(frozen=True)
class NetworkFacts:
    """What was trained, and how.

    Attributes
    ----------
    model, data : str
        Names.
    image_shape : tuple of int
        (C, H, W)
    classes : int
    images : int
        Of an epoch.
    threads : int
        Of a rank.
    cores : int
        Of a host.
    workers : int
        Threads of a rank that make batches; 0: its main thread does.
    itemsize : int
        Bytes of a weight.
    kept : int
        Arrays as large as the weights that a rank keeps: weights, gradients, the optimizer's.
    epochs, batch : int
        With which the model is trained where nothing else is said.
    """

    model: Name
    data: Name
    image_shape: tuple[Count, ...]
    classes: Count
    images: Count
    threads: Count
    cores: Count
    workers: Annotated[int, Number(int, 0)]
    itemsize: Annotated[int, Number(int, 1, 16)]
    kept: Annotated[int, Number(int, 1, 64)]
    epochs: Count
    batch: Count


@dataclass(frozen=True)
class ParameterFacts:
    """A parameter: the layer that it belongs to, and how many items it has."""

    layer: Name
    items: Count


@dataclass(frozen=True)
class LayerSeconds:
    """What a layer takes in one direction."""

    layer: Name
    seconds: Seconds


@dataclass(frozen=True)
class StepSeconds:
    """What the parts of a step take on a rank that computes alone.

    Attributes
    ----------
    images : int
        Of the rank.
    forward, backward : tuple of LayerSeconds
        In the order in which they are done.
    loss, update : float
    input : float
        Making the batch: of the main thread, or of the threads that make it ahead.
    rest : float
        All else: Python between the layers.
    spread : float
        Standard deviation of a step's seconds over their mean (`lateness.spread_of`).
    arena : int
        Bytes of what layers compute.
    """

    images: Count
    forward: tuple[LayerSeconds, ...]
    backward: tuple[LayerSeconds, ...]
    loss: Seconds
    update: Seconds
    input: Seconds
    rest: Seconds
    spread: Share
    arena: Annotated[int, Number(int, 0, 2**50)]

    @property
    def seconds(self) -> float:
        """Of the whole step, without its input."""
        layers = sum(layer.seconds for layer in (*self.forward, *self.backward))
        return layers + self.loss + self.update + self.rest

    def scaled(self, factor: float) -> StepSeconds:
        """Return a step all of whose parts take so many times as long."""

        def layers(some: tuple[LayerSeconds, ...]) -> tuple[LayerSeconds, ...]:
            return tuple(replace(layer, seconds=factor * layer.seconds) for layer in some)

        parts = {name: factor * getattr(self, name) for name in ("loss", "update", "input", "rest")}
        return replace(self, forward=layers(self.forward), backward=layers(self.backward), **parts)


@dataclass(frozen=True)
class Crowd:
    """Ranks of one host that compute at once.

    Attributes
    ----------
    ranks : int
    slowdown : float
        How much slower each is.
    spread : float
        Of their steps, as of `StepSeconds`.
    """

    ranks: Count
    slowdown: Annotated[float, Number(float, 1, 1000)]
    spread: Share


@dataclass(frozen=True)
class LinkSeconds:
    """Sums over some ranks, measured as `choice.measure` does.

    Attributes
    ----------
    kind : str
        ``host``: all ranks were on one; ``network``: each was on another.
    ranks : int
    busy : float
        The share of the time in which a rank computed: copying, and adding.
    seconds : dict of str to dict of str to float
        By bytes, as text, and algorithm.
    """

    kind: Name
    ranks: Annotated[int, Number(int, 2)]
    busy: Share
    seconds: dict[str, dict[str, Seconds]]

    @property
    def placement(self) -> Placement:
        """Where the ranks were."""
        return Placement(self.ranks, self.ranks if self.kind == HOST else 1)

    def by_size(self) -> dict[int, dict[str, float]]:
        """Return the seconds by bytes and algorithm."""
        return {int(nbytes): taken for nbytes, taken in self.seconds.items()}

    def link(self) -> Link:
        """Return what messages cost on such links."""
        found = self.by_size()
        names = set.intersection(*(set(taken) for taken in found.values()))
        costs = {
            name: fit(name, self.placement, {n: taken[name] for n, taken in found.items()})
            for name in sorted(names)
        }
        return Link(costs, self.busy)


@dataclass(frozen=True)
class Calibration:
    """What was measured of a network on a machine.

    Attributes
    ----------
    machine : dict
        The machine report.
    network : NetworkFacts
    parameters : tuple of ParameterFacts
        In the order of the optimizer.
    steps : tuple of StepSeconds
        With ever more images.
    crowds : tuple of Crowd
    links : tuple of LinkSeconds
        At most one of each kind.

    Raises
    ------
    ValueError
        Parts that do not fit each other; the message begins with the field.
    """

    machine: dict[str, Any]
    network: NetworkFacts
    parameters: tuple[ParameterFacts, ...]
    steps: tuple[StepSeconds, ...]
    crowds: tuple[Crowd, ...]
    links: tuple[LinkSeconds, ...]

    def __post_init__(self) -> None:
        for name in ("parameters", "steps"):
            if not getattr(self, name):
                raise ValueError(f"{name}: got none, expected at least one")
        _check_steps(self)
        for name, keys in (
            ("crowds", [crowd.ranks for crowd in self.crowds]),
            ("links", [link.kind for link in self.links]),
        ):
            if len(set(keys)) < len(keys):
                raise ValueError(f"{name}: got {keys}, expected each once")
        for number, link in enumerate(self.links):
            _check_link(f"links[{number}]", link)

    @property
    def cpu(self) -> str:
        """The name of the processor."""
        cpu = self.machine.get("cpu")
        return str(cpu["name"]) if isinstance(cpu, dict) and "name" in cpu else "unknown processor"

    def links_by_kind(self) -> Links:
        """Return what messages cost within hosts and between them."""
        found = {link.kind: link.link() for link in self.links}
        return Links(found.get(HOST), found.get(NETWORK))

    def slowdown(self, ranks: int) -> float:
        """Return how much slower a rank is when so many of its host compute: between two, a line.

        Where more compute than were ever measured it grows on as it did.
        """
        known = sorted(({1: 1.0} | {c.ranks: c.slowdown for c in self.crowds}).items())
        if len(known) == 1:
            return 1.0
        upper = next((i for i, (n, _) in enumerate(known) if n >= ranks and i), len(known) - 1)
        (n0, s0), (n1, s1) = known[upper - 1], known[upper]
        return max(1.0, s0 + (s1 - s0) * (ranks - n0) / (n1 - n0))

    def spread(self, ranks: int, alone: float) -> float:
        """Return the spread of steps when so many ranks of a host compute: at least that alone."""
        known = [crowd for crowd in self.crowds if ranks > 1]
        nearest = min(known, key=lambda crowd: abs(crowd.ranks - ranks), default=None)
        return alone if nearest is None else max(alone, nearest.spread)


def _check_steps(calibration: Calibration) -> None:
    first = calibration.steps[0]
    images = [step.images for step in calibration.steps]
    if images != sorted(set(images)):
        raise ValueError(f"steps: got {images} images, expected ever more")
    for number, step in enumerate(calibration.steps):
        for name in ("forward", "backward"):
            layers, expected = (
                [layer.layer for layer in getattr(each, name)] for each in (step, first)
            )
            if layers != expected or not layers:
                raise ValueError(
                    f"steps[{number}].{name}: got layers {layers[:3]}..., expected those of "
                    f"steps[0], and at least one"
                )
        if not 0 < step.seconds < LONGEST:
            raise ValueError(
                f"steps[{number}].seconds: got {step.seconds}, expected above 0 and below "
                f"{LONGEST:g}"
            )
    names = {layer.layer for layer in first.forward}
    for number, parameter in enumerate(calibration.parameters):
        if parameter.layer not in names:
            raise ValueError(
                f"parameters[{number}].layer: got {parameter.layer!r}, expected a layer of "
                "steps[0].forward"
            )


def _check_link(where: str, link: LinkSeconds) -> None:
    if link.kind not in KINDS:
        raise ValueError(f"{where}.kind: got {link.kind!r}, expected {' or '.join(KINDS)}")
    if not link.seconds:
        raise ValueError(f"{where}.seconds: got none, expected those of at least one size")
    for size, taken in link.seconds.items():
        if not size.isdecimal() or not 0 < int(size) < 2**50:
            raise ValueError(f"{where}.seconds: got size {size!r}, expected bytes, above 0")
        for name in ALLREDUCE:
            if name != "two-level" and not 0 < taken.get(name, 0.0) < LONGEST:
                raise ValueError(
                    f"{where}.seconds[{size}].{name}: got {taken.get(name)}, expected seconds "
                    f"above 0 and below {LONGEST:g}"
                )


# --- files ---


def save(calibration: Calibration, path: Path) -> None:
    """Write a calibration, atomically.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    text = json.dumps({"format": FORMAT, **asdict(calibration)}, indent=1)
    write_atomically(path, (text + "\n").encode())


def load(path: Path) -> Calibration:
    """Read a calibration.

    Raises
    ------
    CalibrationError
        The file is damaged; the message names the field.
    OSError
        It cannot be read.
    """
    try:
        content = json.loads(path.read_bytes().decode(), object_pairs_hook=unique)
    except ValueError as error:  # those of decoding and of JSON are such
        raise CalibrationError(f"{path}: damaged or no JSON ({error})") from None
    except RecursionError:
        raise CalibrationError(f"{path}: damaged: more levels than a calibration has") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise CalibrationError(f"{path}: format: expected {FORMAT!r}, as this version writes it")
    try:
        result: Calibration = decoded(Calibration, content, "")
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"{path}: {error}") from None
    return result
