"""Steps with parameter servers, beside what was computed by hand."""

import pytest

from lowerconv.parallel.options import ParallelOptions
from lowerconv.predict.calibration import HOST, NETWORK
from lowerconv.predict.collective_costs import Cluster, Part, Placement
from lowerconv.predict.served import exchanged
from lowerconv.predict.step import predict_step

from .made_up import calibration, link_seconds, step_seconds


def predicted(known, ranks=2, per_host=1, **options):
    cluster = Cluster(Placement(ranks, per_host), known.links_by_kind())
    given = ParallelOptions(strategy="server", **options)
    return predict_step(known, cluster, 10 * ranks, given)


def test_what_is_exchanged():
    assert exchanged(Placement(4, 1), 4) == Part(0.0, 0.75)  # a quarter to each of three others
    assert exchanged(Placement(4, 4), 4) == Part(0.75, 0.0)
    assert exchanged(Placement(4, 1), 1) == Part(0.0, 3.0)  # all to one
    assert exchanged(Placement(4, 2), 4) == Part(0.25, 1.0)  # two ranks, two quarters each


def test_servers_in_step():
    """Two MiB of gradients: a MiB goes each way, and takes as long as half of a sum."""
    known = calibration([step_seconds(10, update=0.5)], [link_seconds(NETWORK, mib=1.0)])
    step = predicted(known, staleness=0)
    assert step.exposed == pytest.approx(2)
    assert step.compute == pytest.approx(6 + 0.25)  # each updates one half
    assert step.seconds == pytest.approx(8.25)
    assert step.hidden == 0
    assert step.staleness == {}


def test_the_slowest_rank_is_waited_for_in_step_only():
    known = calibration([step_seconds(10, spread=0.1)], [link_seconds(NETWORK, mib=0.001)])
    assert predicted(known, staleness=0).skew > 0.1
    free = predicted(known, 8, staleness=64)
    assert free.skew < predicted(known, 8, staleness=0).skew
    bounds = [predicted(known, 8, staleness=s).seconds for s in (1, 2, 4, 64)]
    assert bounds == sorted(bounds, reverse=True)


def test_staleness():
    known = calibration([step_seconds(10, spread=0.05)], [link_seconds(NETWORK, mib=0.001)])
    step = predicted(known, 4, staleness=2)
    assert sum(step.staleness.values()) == pytest.approx(1)
    assert 0 < step.staleness_mean < 2
    assert all(0 <= missing <= 2 for missing in step.staleness)
    assert predicted(known, 4, staleness=2) == step


def test_a_server_between_layers_answers_late():
    known = calibration(links=[link_seconds(HOST, mib=0.001)])
    slow = predicted(known, per_host=2, staleness=1).exposed
    assert slow > predicted(known, per_host=2, staleness=1, overlap="thread").exposed


def test_more_servers_than_ranks():
    with pytest.raises(ValueError, match=r"^servers: got 3 with 2 ranks"):
        predicted(calibration(), servers=3)
