"""Several NUMA nodes: who does what, copies of the filters, and where results come to lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lowerconv as lc
from lowerconv.codegen.isa import host_isa
from lowerconv.conv import costs, fused
from lowerconv.conv.executable import Options
from lowerconv.conv.fused import forward
from lowerconv.conv.partition import best, by_node
from lowerconv.conv.problem import conv_problem
from lowerconv.conv.schedule import make_schedule
from lowerconv.conv.tiling_search import tilings
from lowerconv.runtime import affinity
from lowerconv.runtime.workspace import STRIDE, scratch_stride
from tests.machine.pages import page_nodes

from .cases import Case, assert_close, by_pass, call_of, data_of, make_plan, operands_of

pytestmark = pytest.mark.usefixtures("watchdog")

CREWS = [
    (0, 0),
    (0, 1),
    (0, 0, 1, 1),
    (0, 0, 0, 1, 1, 1, 1, 1),
    (0, 1, 2),
    (0, 0, 1, 1, 1, 2),
    (0, 0, 1, 1, 2, 2, 3, 3),
    (1, 0, 1, 1, 0),  # as a list of CPUs may have them
    (1, 1, 0, 0),
]
by_crew = pytest.mark.parametrize("nodes", CREWS, ids=str)


@pytest.fixture(autouse=True)
def restored():
    before = lc.get_num_threads()
    yield
    lc.set_num_threads(before)


def cells(rectangles):
    """Return every (panel, piece) of some rectangles."""
    return [
        (panel, piece)
        for p0, p1, q0, q1 in rectangles
        for panel in range(p0, p1)
        for piece in range(q0, q1)
    ]


def most_cells(workers):
    return max(len(cells(rectangles)) for rectangles in workers)


def assert_shared_out(workers, panels, pieces):
    """Every (panel, piece) is somebody's, and nobody else's."""
    found = sorted(cell for rectangles in workers for cell in cells(rectangles))
    assert found == [(panel, piece) for panel in range(panels) for piece in range(pieces)]


def pieces_of_nodes(workers, nodes):
    """Return for each node the pieces that its workers have."""
    found = {node: set() for node in nodes}
    for node, rectangles in zip(nodes, workers, strict=False):
        found[node].update(piece for _, piece in cells(rectangles))
    return found


crews = st.one_of(
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(
        lambda counts: tuple(node for node, count in enumerate(counts) for _ in range(count))
    ),
    st.lists(st.integers(0, 3), min_size=1, max_size=10).map(
        lambda nodes: tuple(sorted(set(nodes)).index(node) for node in nodes)
    ),
)


@given(panels=st.integers(1, 9), pieces=st.integers(1, 23), nodes=crews)
def test_a_node_has_its_share_of_the_pieces_and_whole_ones(panels, pieces, nodes):
    workers = by_node(panels, pieces, nodes, most_cells)
    assert len(workers) == len(nodes)
    assert_shared_out(workers, panels, pieces)
    found = pieces_of_nodes(workers, nodes)
    for node, mine in found.items():
        assert sorted(mine) == list(range(min(mine, default=0), max(mine, default=-1) + 1))
        share = pieces * nodes.count(node) / len(nodes)
        assert share - 1 < len(mine) < share + 1
    assert sum(map(len, found.values())) == pieces


@given(
    panels=st.integers(1, 9),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4, unique=True),
    nodes=crews,
    at_once=st.integers(1, 4),
    pack=st.sampled_from([0.0, 1e3, 1e6]),
    tile=st.sampled_from([1.0, 1e3, 1e6]),
)
def test_the_best_partition_leaves_nothing_out(panels, sizes, nodes, at_once, pack, tile):
    options = [(pieces, tile / pieces, 10.0) for pieces in sizes]
    number, workers = best(panels, nodes, at_once, pack, options)
    assert 1 <= len(workers) <= len(nodes)
    assert_shared_out(workers, panels, sizes[number])


def test_images_stay_on_their_node_unless_that_takes_much_longer():
    nodes = (0, 0, 1, 1)

    def stay(pieces):
        _, workers = best(8, nodes, 8, 0.0, [(pieces, 1e9 / pieces, 0.0)])
        found = pieces_of_nodes(workers, nodes)
        return not found[0] & found[1]

    assert stay(2)
    assert stay(16)
    assert not stay(1)  # one of the nodes would have nothing to do
    assert not stay(3)  # one would have twice as much as the other
    assert stay(9)


def test_parts_of_the_scratch_are_pages_apart_where_there_are_nodes():
    for nbytes in (0, 64, 4096, STRIDE - 64, STRIDE, STRIDE + 64, 5 * STRIDE):
        assert scratch_stride(nbytes, (0,)) == scratch_stride(nbytes, (0, 0, 0)) == nbytes
        apart = scratch_stride(nbytes, (0, 1))
        assert apart == scratch_stride(nbytes, (1, 0, 1, 0))
        assert apart % STRIDE == 0
        assert nbytes <= apart < nbytes + STRIDE


# Convolutions on made-up nodes

CASES = [
    Case("nodes-3x3", (8, 20, 14, 14), (40, 20, 3, 3), padding=1),
    Case("nodes-1x1", (5, 33, 7, 9), (50, 33, 1, 1)),
    Case("nodes-groups-stride-2", (3, 24, 17, 15), (36, 8, 3, 3), 2, 1, 1, 3),
    Case("nodes-depthwise", (4, 16, 20, 20), (16, 1, 3, 3), 1, 1, 1, 16),
    Case("nodes-one-image", (1, 16, 30, 30), (64, 16, 5, 5), padding=2),
]
by_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture
def on_nodes(monkeypatch):
    """Return a function that has plans made for threads on these nodes, however small they are."""
    monkeypatch.setattr(costs, "LAUNCH", 0.0)
    make_schedule.cache_clear()

    def pretend(nodes):
        monkeypatch.setattr(fused, "nodes", lambda threads: nodes)
        lc.set_num_threads(len(nodes))

    yield pretend
    make_schedule.cache_clear()


@by_crew
@by_case
@by_pass
def test_results_are_the_same_bits_whatever_the_nodes(on_nodes, op, case, nodes):
    x, w, _, dy = data_of(case, "float32")
    operands = operands_of(op, x, w, dy)
    constants = [False] if op == "weight_grad" else [False, True]
    on_nodes((0,))
    expected = make_plan(op, case, algorithm="fused")(*operands)
    assert_close(expected, call_of(case, op, "float32").expected)
    on_nodes(nodes)
    for constant in constants:
        plan = make_plan(op, case, algorithm="fused", constant_weights=constant)
        assert plan.executable.schedule.workers > 1
        for _ in range(2):
            out = np.full_like(expected, np.nan)
            assert np.array_equal(plan(*operands, out=out), expected)


def packing_plan(op, case):
    """Return a plan of constant filters that keeps them packed: some use them where they are."""
    conv = make_plan(op, case, algorithm="fused").executable.schedule.conv
    for variant in (tiling.name for tiling in tilings(conv, host_isa(), True)):
        options = Options(algorithm="fused", variant=variant, constant=True)
        plan = lc.ConvPlan(conv_problem(case.x, case.w, *case.arguments), op, options)
        if plan.executable.packed is not None:
            return plan
    raise AssertionError(f"{case}: no variant packs its filters")


@by_crew
@pytest.mark.parametrize("op", ["forward", "input_grad"])
@pytest.mark.parametrize("case", CASES[:3], ids=[case.name for case in CASES[:3]])
def test_constant_filters_are_packed_once_for_every_node(on_nodes, case, op, nodes):
    x, w, _, dy = data_of(case, "float32")
    on_nodes((0,))
    alone = packing_plan(op, case)
    expected = alone(*operands_of(op, x, w, dy))
    on_nodes(nodes)
    plan = packing_plan(op, case)
    schedule, packed = plan.executable.schedule, plan.executable.packed
    packed[...] = np.nan
    assert np.array_equal(plan(*operands_of(op, x, w, dy)), expected)
    conv = schedule.conv
    items = conv.groups * schedule.panels * schedule.NR * conv.C * conv.taps
    used = nodes[: schedule.workers]
    copies = packed.reshape(max(used) + 1, -1)[sorted(set(used)), :items]
    right = alone.executable.packed.ravel()[:items]
    for copy in copies:
        # What fills up the last panel is multiplied by nobody.
        written = ~np.isnan(copy)
        assert written.sum() >= w.size
        assert np.array_equal(copy[written], right[written])


def test_a_copy_that_was_interrupted_is_made_again(on_nodes, monkeypatch):
    case = CASES[0]
    x, w, _, _ = data_of(case, "float32")
    on_nodes((0, 0, 1, 1))
    plan = packing_plan("forward", case)
    first, second = w.copy(), -w
    expected = plan(x, first).copy()
    launch = forward.launch

    def interrupted(*arguments):
        launch(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forward, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            plan(x, second)
    assert np.array_equal(plan(x, first), expected)


@pytest.mark.skipif(len(affinity.topology().numa_nodes) < 2, reason="one NUMA node only")
def test_results_lie_on_the_node_of_who_computed_them():
    threads = affinity.cores()
    lc.set_num_threads(threads)
    nodes = affinity.nodes(threads)
    if len(set(nodes)) < 2:
        pytest.skip("threads are not bound to several nodes")
    numbers = [node.number for node in affinity.topology().numa_nodes]
    case = Case("nodes-memory", (4 * threads, 64, 56, 56), (64, 64, 3, 3), padding=1)
    x, w, _, _ = data_of(case, "float32")
    plan = make_plan("forward", case, algorithm="fused")
    y = plan(x, w)
    schedule = plan.executable.schedule
    owners = np.full((case.x[0], schedule.pieces), -1)
    for worker, parts in enumerate(schedule.parts):
        for _, piece in cells(parts):
            owners[piece // schedule.pieces, piece % schedule.pieces] = numbers[nodes[worker]]
    at_home = 0
    try:
        of_images = [page_nodes(image) for image in y]
    except OSError as error:
        pytest.skip(f"the system does not tell where memory lies: {error}")
    for found, mine in zip(of_images, owners, strict=True):
        at_home += np.isin(found, mine).sum()
    assert at_home >= 0.9 * sum(map(len, of_images))
