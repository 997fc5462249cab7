"""Model parallelism and OWT: what is replayed, beside real runs and what was computed by hand."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from lowerconv.nn.models import MODELS
from lowerconv.nn.recording import make_graph
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.trace.chrome import read
from lowerconv.predict.calibration import HOST, LayerSeconds, ParameterFacts
from lowerconv.predict.collective_costs import Cluster, Placement
from lowerconv.predict.network.collectives import schedule_of
from lowerconv.predict.programs import SETTLE, STEPS
from lowerconv.predict.recorded import Awaited, Begun, LayerWork, record_split
from lowerconv.predict.replay import Replay
from lowerconv.predict.step import predict_step

from .made_up import calibration, link_seconds, step_seconds

FREE = [link_seconds(HOST, mib=1e-12)]
IMAGE, CLASSES = (1, 28, 28), 10


def known_network(model="lenet", links=FREE, **others):
    """Return a calibration of a real network: a layer takes 1 ms an image forward, 2 backward."""
    network = MODELS[model].build(IMAGE, CLASSES)
    graph = make_graph(network, (1, *IMAGE), np.float32, True)
    names = [node.name for node in graph.nodes]
    steps = []
    for images in (1, 100):
        forward = tuple(LayerSeconds(name, 1e-3 * images) for name in names)
        backward = tuple(LayerSeconds(name, 2e-3 * images) for name in reversed(names))
        made = step_seconds(images, **others)
        steps.append(replace(made, forward=forward, backward=backward))
    known = calibration(links=links, model=model)
    owner = {id(p): n.name for n in graph.nodes for p in n.layer.own_parameters().values()}
    facts = tuple(ParameterFacts(owner[id(p)], p.data.size) for p in network.parameters().values())
    return replace(known, steps=tuple(steps), parameters=facts), names


def predicted(known, ranks, batch, **options):
    cluster = Cluster(Placement(ranks, ranks), known.links_by_kind())
    return predict_step(known, cluster, batch, ParallelOptions(**options))


# --- real runs ---


def begun_in_step(monkeypatch, known, ranks, batch, **options):
    """Return the collectives of a predicted step in the order of submission: names and bytes."""
    begun = []
    submit = Replay.submit

    def noted(self, task):
        begun.append((task.name, task.nbytes))
        submit(self, task)

    monkeypatch.setattr(Replay, "submit", noted)
    predicted(known, ranks, batch, **options)
    count = len(begun) // (SETTLE + STEPS)
    assert begun == begun[:count] * (SETTLE + STEPS)
    return begun[:count]


def algorithm_of(name, scheme):
    """Return by which collective what timelines call so is sent."""
    what = name.split()[-1]
    border = {"border": "all-gather", "gradient": "reduce-scatter"}
    if scheme == "b":
        border = {"border": "broadcast", "gradient": "reduce"}
    inside = {"gather": "all-gather", "scatter": "reduce-scatter", "sum": "direct"}
    return (border | inside | {"labels": "all-gather"}).get(what, "direct")  # of buckets: as asked


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (18, {"strategy": "model"}),
        (18, {"strategy": "owt", "owt_scheme": "a"}),
        (18, {"strategy": "owt", "owt_scheme": "b"}),
        (18, {"strategy": "owt"}),
        (17, {"strategy": "owt", "owt_chunks": 4, "owt_updates": 2}),
    ],
    ids=["model", "owt-a", "owt-b", "owt-c", "owt-c-uneven"],
)
def test_collectives_are_those_of_real_runs(
    ranks, batch, options, mpiexec, tiny_fashion, tmp_path, monkeypatch
):
    """Names and bytes of all, in order, on the last rank; and the bytes that all ranks send."""
    if options["strategy"] == "owt":
        options = options | {"allreduce": "direct", "bucket_mib": 0.05}
    given = {"parallel" if k == "strategy" else k: v for k, v in options.items()}
    path = tmp_path / "t.json"
    done = mpiexec(
        *(ranks, "-m", "lowerconv", "train", "--model", "lenet"),
        *("--data", f"fashion-mnist:{tiny_fashion}", "--epochs", 1, "--threads", 1),
        *("--batch", batch, "--out", tmp_path / "run"),
        *("--timeline", path, "--timeline-first", 3, "--timeline-count", 2),
        *(word for k, v in given.items() for word in (f"--{k.replace('_', '-')}", v)),
    )
    assert done.returncode == 0, done.stderr
    trace = read(path)
    known, _ = known_network()
    expected = begun_in_step(monkeypatch, known, ranks, batch, **options)
    for number in range(2):
        sent = Counter()
        for rank in trace.ranks:
            step = rank.steps[number]
            within = [t for t in rank.transfers if step.begin <= t.submitted < step.end]
            found = [(t.name, t.nbytes) for t in sorted(within, key=lambda t: t.submitted)]
            if rank.rank == ranks - 1:
                assert found == expected
            sent.update({"bytes": sum(t.sent for t in within)})
        assert sent["bytes"] == sum(
            schedule_of(
                algorithm_of(name, options.get("owt_scheme")), ranks, nbytes, np.int8
            ).nbytes.sum()
            for name, nbytes in expected
        )


# --- what is recorded ---


@pytest.mark.parametrize("border", [None, ""])
@pytest.mark.parametrize("ranks", [2, 3, 7])
@pytest.mark.parametrize("model", ["lenet", "cifar10_quick", "alexnet", "googlenet", "resnet18"])
def test_all_work_is_somebodys(model, ranks, border):
    """Each layer is before the border, or a part of it between an equal share and all is behind."""
    image = (1, 28, 28) if model == "lenet" else (3, 224, 224)
    record = record_split(model, image, CLASSES, border, ranks)
    for recorded, is_backward in ((record.forward, False), (record.backward, True)):
        work = Counter()
        for event in recorded:
            if isinstance(event, LayerWork):
                assert event.backward == is_backward
                work[event.layer] += event.share
        begun = [event for event in recorded if isinstance(event, Begun)]
        awaited = [event.begun for event in recorded if isinstance(event, Awaited)]
        assert set(begun) == set(awaited)
        assert len(begun) == len(awaited)
        for name in record.layers:
            before = record.front.get(name, 0.0)
            if name in work:
                # One that some read whole, and others not, is made twice.
                most = (1 - before) * (2 if name == "Concat" else 1)
                assert (1 - before) / ranks - 1e-9 <= work[name] <= most + 1e-9, name
            elif not is_backward:
                assert before == pytest.approx(1), name


def test_parts_of_the_parameters():
    network = MODELS["lenet"].build(IMAGE, CLASSES)
    everything = sum(p.data.size for p in network.parameters().values())
    shares = [record_split("lenet", IMAGE, CLASSES, None, p).items / everything for p in (1, 2, 4)]
    assert shares[0] == 1
    assert shares[1:] == pytest.approx([1 / 2, 1 / 4], abs=0.01)


# --- what is replayed ---


def test_messages_that_cost_nothing():
    """Every layer of LeNet is split evenly, but for the last one's features."""
    known, names = known_network()
    whole = 3e-3 * len(names)
    step = predicted(known, 2, 20, strategy="model")
    assert step.exposed == pytest.approx(0, abs=1e-6)
    assert step.seconds == pytest.approx(20 * whole / 2, rel=1e-3)
    first = next(i for i, name in enumerate(names) if "Linear" in name)
    front, back = 3e-3 * first, 3e-3 * (len(names) - first)
    for scheme in "abc":
        step = predicted(known, 2, 20, strategy="owt", owt_scheme=scheme)
        assert step.seconds == pytest.approx(10 * front + 20 * back / 2, rel=1e-3)


def test_parts_add_up_and_slower_links_are_slower():
    for options in (
        {"strategy": "model"},
        *({"strategy": "owt", "owt_scheme": scheme} for scheme in "abc"),
    ):
        before = 0.0
        for mib in (1e-9, 1e-3, 1e-2, 1e-1, 1.0):
            known, _ = known_network(
                links=[link_seconds(HOST, mib=mib)], loss=0.01, update=0.02, input=0.005, spread=0.1
            )
            step = predicted(known, 3, 18, **options)
            parts = step.compute + step.input + step.exposed + step.skew
            assert step.seconds == pytest.approx(parts)
            assert min(step.compute, step.input, step.exposed, step.skew) >= 0
            assert step.seconds >= before * (1 - 1e-9)
            before = step.seconds


def test_more_ranks_compute_less_and_take_less_memory_each():
    known, _ = known_network()
    for options in ({"strategy": "model"}, {"strategy": "owt"}):
        steps = [predicted(known, ranks, 64, **options) for ranks in (1, 2, 4, 8)]
        for name in ("compute", "nbytes"):
            values = [getattr(step, name) for step in steps]
            assert values == sorted(values, reverse=True), (options, name, values)


def test_owt_hides_what_crosses_behind_chunks():
    """With one chunk nothing is computed while it crosses; with several the next one is."""
    known, _ = known_network(links=[link_seconds(HOST, mib=0.05)])
    one, several = (
        predicted(known, 2, 64, strategy="owt", owt_chunks=chunks, overlap="thread")
        for chunks in (1, 4)
    )
    assert several.exposed < one.exposed


def test_mistakes_are_told():
    known, _ = known_network()
    wrong = (
        ({"strategy": "owt", "owt_border": "nowhere"}, r"^border: got 'nowhere'"),
        ({"strategy": "owt", "owt_scheme": "a", "owt_chunks": 2}, r"^owt_chunks: got 2"),
        ({"strategy": "owt", "owt_updates": 5}, r"^owt_updates: got 5"),
    )
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            predicted(known, 2, 20, **options)
    with pytest.raises(ValueError, match=r"^steps: got layer 'a', expected those of 'lenet'"):
        predicted(calibration(links=FREE), 2, 20, strategy="model")
    other = replace(known, network=replace(known.network, model="mine"))
    with pytest.raises(ValueError, match=r"^model: got 'mine', expected one of lenet"):
        predicted(other, 2, 20, strategy="model")
