"""How long a step takes on any number of ranks: the strategy's schedule, replayed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from lowerconv.parallel.comm.engine import AT_ONCE
from lowerconv.parallel.comm.overlap import has_thread
from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import Calibration, StepSeconds
from lowerconv.predict.collective_costs import Cluster, Placement
from lowerconv.predict.lateness import slowest_of, woken_late
from lowerconv.predict.programs import (
    bucket_bytes,
    in_step,
    make_work,
    replay_in_step,
    replay_late,
)
from lowerconv.predict.served import of_servers
from lowerconv.predict.split import of_split
from lowerconv.predict.stages import step_at

SPLIT = ("model", "owt")  # whose ranks have parts of layers
PREDICTED = ("data", "tree", *SPLIT, "async", "server")


@dataclass(frozen=True)
class StepPrediction:
    """What is predicted of a step, in seconds.

    Attributes
    ----------
    ranks, hosts, batch : int
        The batch is that of all ranks.
    seconds : float
        Of a step; `compute`, `input`, `exposed` and `skew` add up to it.
    compute : float
        In layers, loss, update, and Python between them.
    input : float
        In which the main thread makes its batch, or waits for it.
    exposed : float
        In which it waits for messages, moves them, or stands still while they are moved.
    skew : float
        In which it waits for the slowest rank.
    in_flight : float
        During which some sum is under way.
    nbytes : int
        Memory of a rank.
    images : int
        Of an epoch.
    algorithms : tuple of str
        By which gradients are summed.
    staleness : dict of float to float
        With ``async`` and ``server``: the share of the steps for which so many updates were
        missing; parts of them where each rank's gradient is an update by itself.
    """

    ranks: int
    hosts: int
    batch: int
    seconds: float
    compute: float
    input: float
    exposed: float
    skew: float
    in_flight: float
    nbytes: int
    images: int
    algorithms: tuple[str, ...] = ()
    staleness: dict[float, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Of all ranks together."""
        return self.batch / self.seconds

    @property
    def epoch_seconds(self) -> float:
        """Of the training of an epoch, its test aside."""
        return self.images / self.images_per_second

    @property
    def hidden(self) -> float | None:
        """The share of the time in flight that costs the main thread none; None without any."""
        return max(0.0, 1 - self.exposed / self.in_flight) if self.in_flight else None

    @property
    def staleness_mean(self) -> float | None:
        """Updates missing in the weights on average, with ``async`` and ``server``."""
        if not self.staleness:
            return None
        return sum(missing * share for missing, share in self.staleness.items())


def predict_step(
    calibration: Calibration, cluster: Cluster, batch: int, options: ParallelOptions
) -> StepPrediction:
    """Return what a step takes.

    Parameters
    ----------
    calibration : Calibration
    cluster : Cluster
    batch : int
        Images of all ranks together; no rank has none.
    options : ParallelOptions
        Of a strategy of `PREDICTED`.

    Raises
    ------
    ValueError
        A strategy or options that are not predicted, or do not go together, fewer images than
        ranks, or links of which nothing is known.
    """
    at = cluster.at
    _check(options, at, batch)
    facts = calibration.network
    # With model parallelism every rank has all images, and a part of what is done with them.
    images = batch if options.strategy == "model" else -(-batch // at.ranks)
    step = step_at(calibration, images)
    step = replace(step, spread=calibration.spread(at.busiest, step.spread))
    slower = calibration.slowdown(at.busiest)
    own_input = 0.0 if facts.workers else slower * step.input
    compute = slower * step.seconds
    parameters = facts.itemsize * sum(parameter.items for parameter in calibration.parameters)
    result = StepPrediction(
        ranks=at.ranks,
        hosts=at.hosts,
        batch=batch,
        seconds=compute + own_input,
        compute=compute,
        input=own_input,
        exposed=0.0,
        skew=0.0,
        in_flight=0.0,
        nbytes=facts.kept * parameters + step.arena,
        images=facts.images,
    )
    if at.ranks > 1:
        result = _of_several(result, calibration, cluster, options, step, slower)
    if facts.workers:
        waits = max(0.0, slower * step.input / facts.workers - result.seconds)
        return replace(result, seconds=result.seconds + waits, input=waits)
    return result


def _of_several(
    alone: StepPrediction,
    calibration: Calibration,
    cluster: Cluster,
    options: ParallelOptions,
    step: StepSeconds,
    slower: float,
) -> StepPrediction:
    """Return a step of which the ranks sum gradients, of one in which they do not."""
    facts, at = calibration.network, cluster.at
    gradients = facts.itemsize * sum(parameter.items for parameter in calibration.parameters)
    threaded = has_thread(options, cluster.spare, at.hosts)
    skew = step.spread * slowest_of(at.ranks) * (alone.compute + alone.input)
    if options.strategy in SPLIT:
        result = of_split(alone, calibration, cluster, options, step, slower)
        skew += woken_late("direct", at, skew, threaded)
        return replace(result, seconds=result.seconds + skew, skew=skew)
    if options.strategy == "server":
        result = of_servers(alone, step, slower, options, cluster.links, at, threaded, gradients)
        skew = 0.0 if options.staleness else skew
        return replace(result, seconds=result.seconds + skew, skew=result.skew + skew)
    work = make_work(
        calibration,
        calibration.parameters,
        step,
        slower,
        alone.input + slower * step.rest,
        cluster,
        options,
    )
    late = options.strategy == "async" and options.staleness > 0
    if late:
        replayed = replay_late(work, threaded, cluster.spare, at.ranks, options, step.spread)
    else:
        replayed = replay_in_step(partial(in_step, work), threaded, cluster.spare)
    seconds, exposed, in_flight, staleness = replayed
    skew = 0.0 if late else skew + woken_late(work.algorithms[-1], at, skew, threaded)
    kept = options.staleness + 1 if options.strategy == "async" else 0
    return replace(
        alone,
        seconds=seconds + skew,
        compute=seconds - exposed - alone.input,
        exposed=exposed,
        skew=skew,
        in_flight=in_flight,
        nbytes=alone.nbytes + AT_ONCE * min(bucket_bytes(options), gradients) + kept * gradients,
        algorithms=tuple(dict.fromkeys(work.algorithms)),
        staleness=staleness,
    )


def _check(options: ParallelOptions, at: Placement, batch: int) -> None:
    if options.strategy not in PREDICTED:
        raise ValueError(
            f"parallel: got {options.strategy!r}, expected one of {', '.join(PREDICTED)}: others "
            "are not predicted"
        )
    if options.wire != "float32":
        raise ValueError(f"wire: got {options.wire!r}, expected 'float32': no other is predicted")
    if batch < at.ranks:
        raise ValueError(f"batch: got {batch} with {at.ranks} ranks, expected an image for each")
