"""Which resources are best: steps over ranks and batches, what limits them, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import Calibration
from lowerconv.predict.collective_costs import Cluster, Link, LinkCost, Links, Placement
from lowerconv.predict.step import StepPrediction, predict_step

HIDDEN_NO_MORE = 0.1  # share of a step that is exposed communication: it is told
WORTH = 0.03  # what changes less is not worth another node, or a sentence


@dataclass(frozen=True)
class Target:
    """What a run may take; None: as much as it likes.

    Attributes
    ----------
    hours, node_hours : float or None
    batch : int or None
        The largest.
    """

    hours: float | None = None
    node_hours: float | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Row:
    """A run on some ranks.

    Attributes
    ----------
    step : StepPrediction
    per_host : int
        Ranks of a host.
    epochs : int
    efficiency : float
        Images/s over those of one rank with the same batch, and over the ranks.
    fits : bool
        Whether the memory of a host is enough.
    """

    step: StepPrediction
    per_host: int
    epochs: int
    efficiency: float
    fits: bool

    @property
    def hours(self) -> float:
        """Of all epochs, their tests aside."""
        return self.epochs * self.step.epoch_seconds / 3600

    @property
    def node_hours(self) -> float:
        """Hours of all hosts together."""
        return self.step.hosts * self.hours

    def within(self, target: Target) -> bool:
        """Whether it takes no more than it may."""
        limits = (
            (self.hours, target.hours),
            (self.node_hours, target.node_hours),
            (self.step.batch, target.batch),
        )
        return self.fits and all(most is None or taken <= most for taken, most in limits)


@dataclass(frozen=True)
class Plan:
    """Rows for some numbers of ranks and batches.

    Attributes
    ----------
    calibration : Calibration
    options : ParallelOptions
    links : Links
    per_host : int
    spare : bool
    epochs : int
    rows : tuple of Row
    left_out : tuple of str
        Why others are missing, a line each.
    """

    calibration: Calibration
    options: ParallelOptions
    links: Links
    per_host: int
    spare: bool
    epochs: int
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    def predict(self, ranks: int, batch: int, **changes: object) -> StepPrediction:
        """Return a step with this plan's options, or with other ``links`` or ``spare``."""
        links, spare = changes.get("links", self.links), bool(changes.get("spare", self.spare))
        assert isinstance(links, Links)
        cluster = Cluster(Placement(ranks, self.per_host), links, spare)
        return predict_step(self.calibration, cluster, batch, self.options)


def explore(
    calibration: Calibration,
    options: ParallelOptions,
    ranks: Iterable[int],
    batches: Iterable[int],
    *,
    per_host: int | None = None,
    links: Links | None = None,
    spare: bool = False,
    epochs: int | None = None,
) -> Plan:
    """Return what runs on some numbers of ranks take, with some batches.

    Parameters
    ----------
    calibration : Calibration
    options : ParallelOptions
    ranks, batches : iterable of int
        The batches are those of all ranks together.
    per_host : int, optional
        Ranks of a host; by default as many as have cores for their threads.
    links : Links, optional
        By default those of the calibration.
    spare : bool
        Whether each rank has a core that its layers leave to messages.
    epochs : int, optional
        By default those that suit the model.

    Raises
    ------
    ValueError
        A strategy that is not predicted.
    """
    facts = calibration.network
    plan = Plan(
        calibration,
        options,
        calibration.links_by_kind() if links is None else links,
        max(1, facts.cores // (facts.threads + spare)) if per_host is None else per_host,
        spare,
        facts.epochs if epochs is None else epochs,
        (),
        (),
    )
    limit = _memory(calibration)
    rows, left_out = [], []
    for batch in sorted(set(batches)):
        alone = plan.predict(1, batch)
        for count in sorted(set(ranks)):
            where = f"{count} ranks, batch {batch}"
            at = Placement(count, plan.per_host)
            if batch < count:
                left_out.append(f"{where}: not an image for each rank")
                continue
            try:
                plan.links.check(at)
            except ValueError as error:
                left_out.append(f"{where}: {error}")
                continue
            step = plan.predict(count, batch) if count > 1 else alone
            efficiency = step.images_per_second / alone.images_per_second / count
            fits = limit is None or step.nbytes * at.busiest <= limit
            rows.append(Row(step, plan.per_host, plan.epochs, efficiency, fits))
    return replace(plan, rows=tuple(rows), left_out=tuple(left_out))


def _memory(calibration: Calibration) -> float | None:
    memory = calibration.machine.get("memory")
    limit = memory.get("limit") if isinstance(memory, dict) else None
    return float(limit) if isinstance(limit, (int, float)) else None


def best(rows: Sequence[Row], target: Target) -> Row | None:
    """Return the best of some runs; None where all take more than they may.

    With a limit of hours the one that costs the fewest node-hours, else the fastest; of those that
    differ little the one on the fewest hosts.
    """
    within = [row for row in rows if row.within(target)]
    if not within:
        return None

    def cost(row: Row) -> float:
        return row.hours if target.hours is None else row.node_hours

    least = min(map(cost, within))
    good = [row for row in within if cost(row) <= (1 + WORTH) * least]
    return min(good, key=lambda row: (row.step.hosts, row.step.ranks, cost(row)))


def advice(plan: Plan, target: Target) -> list[str]:
    """Return sentences: what is best, why, from where on messages show, and what would help."""
    found = best(plan.rows, target)
    lines = []
    if found is None:
        if not plan.rows:
            return ["nothing could be predicted"]
        lines.append(f"nothing is within {_limits(target)}; the fastest takes:")
        found = min(plan.rows, key=lambda row: row.hours)
    lines.append(
        f"best: {_resources(found)}: {duration(3600 * found.hours)} for "
        f"{found.epochs} epochs, {found.node_hours:.3g} node-hours"
    )
    lines.append(why(found.step))
    lines += _beyond(plan, found)
    lines += _help(plan, found)
    if any(not row.fits for row in plan.rows):
        lines.append("rows marked ! need more memory than a host has")
    return lines


def why(step: StepPrediction) -> str:
    """Return what a step consists of, in words."""
    parts = (
        ("compute", step.compute),
        ("exposed communication", step.exposed),
        ("waiting for the slowest rank", step.skew),
        ("input", step.input),
    )
    told = ", ".join(f"{s / step.seconds:.0%} {name}" for name, s in parts if s > 0)
    return f"a step of {duration(step.seconds)}: {told}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _limits(target: Target) -> str:
    told = []
    if target.hours is not None:
        told.append(f"{target.hours:g} h")
    if target.node_hours is not None:
        told.append(f"{target.node_hours:g} node-hours")
    if target.batch is not None:
        told.append(f"batch {target.batch}")
    return ", ".join([*told, "the memory of a host"])


def _resources(row: Row) -> str:
    step = row.step
    each = min(step.ranks, row.per_host)
    nodes = f"{step.hosts} node{'s' * (step.hosts > 1)}"
    images = -(-step.batch // step.ranks)
    return f"{nodes} x {each} rank{'s' * (each > 1)} x batch {images} ({step.batch} images a step)"


def _beyond(plan: Plan, found: Row) -> list[str]:
    """Tell from which number of ranks on messages are not hidden any more."""
    same = [row.step for row in plan.rows if row.step.batch == found.step.batch]
    shares = [(step, step.exposed / step.seconds) for step in same]
    for (before, little), (after, much) in pairwise(shares):
        if little <= HIDDEN_NO_MORE < much:
            return [
                f"beyond {before.ranks} rank{'s' * (before.ranks > 1)} messages no longer hide: "
                f"they are exposed for {little:.0%} of a step there, "
                f"{much:.0%} at {after.ranks}"
            ]
    return []


def _help(plan: Plan, found: Row) -> list[str]:
    """Tell which change would help most, and by how much."""
    step = found.step
    changes: list[tuple[str, Callable[[], StepPrediction]]] = [
        ("a batch twice as large", lambda: plan.predict(step.ranks, 2 * step.batch)),
    ]
    if step.ranks > 1:
        fast = Links(_faster(plan.links.host), _faster(plan.links.network))
        changes.append(
            ("links twice as fast", lambda: plan.predict(step.ranks, step.batch, links=fast))
        )
        if not plan.spare:
            changes.append(
                (
                    "a core of each rank more, for messages (--spare-core)",
                    lambda: plan.predict(step.ranks, step.batch, spare=True),
                )
            )
    gains = [
        (make().images_per_second / step.images_per_second - 1, words) for words, make in changes
    ]
    gain, words = max(gains)
    if gain < WORTH:
        return []
    return [f"what would help most: {words}, {gain:.0%} more images/s"]


def _faster(link: Link | None) -> Link | None:
    if link is None:
        return None
    costs = {name: LinkCost(cost.latency, cost.byte / 2) for name, cost in link.costs.items()}
    return Link(costs, link.busy)


def assumed_network(gbit: float, latency: float, host: Link | None) -> Link:
    """Return links between hosts that nobody has measured.

    Parameters
    ----------
    gbit : float
        Gbit/s of a host's link in each direction.
    latency : float
        Seconds of a message.
    host : Link, optional
        That within a host: what it takes to copy and to add there is added.
    """
    wire = 8e-9 / gbit
    costs, shares = {}, []
    for name in host.costs if host else ("ring", "halving-doubling", "tree", "direct", "library"):
        byte = host.costs[name].byte if host else 0.0
        costs[name] = LinkCost(latency, wire + byte)
        shares.append(byte / (wire + byte))
    return Link(costs, min(shares))
