"""What layers compute, against plain loops and formulas."""

import numpy as np
import pytest

from lowerconv import nn

TRAINING = nn.Step(input_grad=True, training=True)


def pooled(x, size, stride, pad, ceil_mode, reduce):
    """Pooling by its definition; `reduce` gets the pixels inside and the window's counted area."""
    H, W = x.shape[2:]

    def starts(extent, axis):
        room = extent + 2 * pad[axis] - size[axis]
        count = (-(-room // stride[axis]) if ceil_mode else room // stride[axis]) + 1
        every = [i * stride[axis] - pad[axis] for i in range(count)]
        return [s for s in every if s < extent or not ceil_mode]

    rows, columns = starts(H, 0), starts(W, 1)
    y = np.empty((*x.shape[:2], len(rows), len(columns)), x.dtype)
    for p, h in enumerate(rows):
        for q, w in enumerate(columns):
            window = x[:, :, max(h, 0) : h + size[0], max(w, 0) : w + size[1]]
            area = (min(h + size[0], H + pad[0]) - h) * (min(w + size[1], W + pad[1]) - w)
            y[:, :, p, q] = reduce(window, area)
    return y


POOLINGS = [
    # H, W, size, stride, padding, ceil_mode
    (6, 6, (2, 2), (2, 2), (0, 0), False),
    (7, 5, (3, 2), (2, 1), (1, 1), False),
    (7, 8, (3, 3), (2, 2), (0, 0), True),
    (32, 32, (3, 3), (2, 2), (0, 0), True),
    (5, 5, (2, 2), (3, 3), (1, 1), True),  # the last window would begin in the padding
    (1, 9, (1, 3), (1, 4), (0, 1), True),
    (3, 3, (3, 3), (1, 1), (0, 0), False),
]


@pytest.mark.parametrize("case", POOLINGS, ids=str)
def test_pooling_by_its_definition(case):
    H, W, size, stride, pad, ceil_mode = case
    x = np.random.default_rng(1).standard_normal((2, 3, H, W)).astype(np.float32)
    arguments = size, stride, pad, ceil_mode

    y = nn.MaxPool2d(*arguments)(x)
    assert np.array_equal(y, pooled(x, *arguments, lambda window, area: window.max((2, 3))))

    y = nn.AvgPool2d(*arguments)(x)
    expected = pooled(x, *arguments, lambda window, area: window.sum((2, 3)) / area)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)

    y = nn.AvgPool2d(*arguments, count_include_pad=False)(x)
    expected = pooled(x, *arguments, lambda window, area: window.mean((2, 3)))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_nan_survives_max_pool_and_relu():
    x = np.zeros((1, 1, 2, 2), np.float32)
    x[0, 0, 1, 0] = np.nan
    assert np.isnan(nn.MaxPool2d(2)(x)).all()
    assert np.isnan(nn.ReLU()(x)[0, 0, 1, 0])


@pytest.mark.parametrize(
    ("build", "x", "named"),
    [
        (lambda: nn.MaxPool2d(3), np.zeros((1, 1, 2, 2), np.float32), "x"),
        (lambda: nn.MaxPool2d(3), np.zeros((3, 3), np.float32), "x"),
        (lambda: nn.MaxPool2d(2, padding=2), None, "padding"),
        (lambda: nn.MaxPool2d(0), None, "kernel_size"),
        (lambda: nn.AvgPool2d(2, stride=0), None, "stride"),
        (lambda: nn.Linear(3, 2), np.zeros((1, 4), np.float32), "x"),
        (lambda: nn.Linear(0, 2), None, "in_features"),
        (lambda: nn.Conv2d(3, 4, 0), None, "kernel_size"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), None, "groups"),
        (lambda: nn.Conv2d(3, 4, 3), np.zeros((1, 2, 5, 5), np.float32), "weight"),
        (lambda: nn.Dropout(1.0), None, "p"),
    ],
)
def test_mistakes_are_named(build, x, named):
    with pytest.raises(ValueError, match=rf"^{named}: got"):
        build()(x)


def test_sequential_wants_layers():
    with pytest.raises(TypeError, match=r"modules\[1\]"):
        nn.Sequential(nn.ReLU(), np.tanh)


def test_a_called_layer_returns_memory_of_its_own():
    layer = nn.ReLU()
    first = layer(np.ones((2, 3), np.float32))
    layer(np.zeros((2, 3), np.float32))
    assert (first == 1).all()


def test_dropout_keeps_the_mean_and_drops_the_fraction():
    x = np.ones((100, 1000), np.float32)
    y = nn.Dropout(0.3).run(x, nn.Step(True, seed=1, number=2))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    # 100,000 draws: the fraction is within 5 standard deviations.
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)
    assert nn.Dropout(0.3)(x).min() == 1  # nothing at inference


def test_dropout_draws_by_place_in_the_global_batch():
    x = np.ones((7, 40), np.float32)
    whole = nn.Dropout(0.5).run(x, nn.Step(True, 1, 2)).copy()
    parts = [
        nn.Dropout(0.5).run(x[start:stop], nn.Step(True, 1, 2, start)).copy()
        for start, stop in ((0, 3), (3, 3), (3, 7))
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    for other in (nn.Step(True, 1, 3), nn.Step(True, 2, 2)):
        assert not np.array_equal(nn.Dropout(0.5).run(x, other), whole)


def test_dropout_of_samples_from_several_places_of_the_batch():
    x = np.ones((7, 40), np.float32)
    whole = nn.Dropout(0.5).run(x, nn.Step(True, 1, 2)).copy()
    step = nn.Step(True, 1, 2, runs=((4, 2), (0, 0), (1, 3)))
    assert np.array_equal(nn.Dropout(0.5).run(x[:5], step), whole[[4, 5, 1, 2, 3]])
    with pytest.raises(ValueError, match="runs: got places of 5 samples, expected 7"):
        nn.Dropout(0.5).run(x, step)


def test_dropout_layers_of_a_network_differ():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()))
    y = net.run(np.ones((1, 1000), np.float32), nn.Step(training=True))
    assert set(np.unique(y)) == {0, 4}  # those that both have kept
    assert 200 < np.count_nonzero(y) < 300


def test_loss_is_the_cross_entropy_and_does_not_overflow():
    scores = np.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]], np.float32)
    result = nn.softmax_cross_entropy(scores, np.array([0, 0]))
    expected = np.log(np.exp([1.0, 2.0, 3.0]).sum()) - 1.0
    assert result.loss == pytest.approx(expected, rel=1e-6)
    assert result.correct == 1
    share = nn.softmax_cross_entropy(scores[:1], np.array([0]), batch=2)
    assert np.array_equal(share.gradient, result.gradient[:1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_label_smoothing_is_that_of_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    scores, labels = 5 * rng.standard_normal((9, 6)), rng.integers(0, 6, 9)
    result = nn.softmax_cross_entropy(scores, labels, label_smoothing=smoothing)
    theirs = torch.tensor(scores, requires_grad=True)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    loss = criterion(theirs, torch.tensor(labels))
    loss.backward()
    assert result.loss / 9 == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(result.gradient, theirs.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_label_smoothing_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"^label_smoothing: got -0\.1, expected"):
        nn.softmax_cross_entropy(np.zeros((1, 2)), np.array([0]), label_smoothing=-0.1)


@pytest.mark.parametrize("labels", [np.array([0, 3]), np.array([-1, 0]), np.array([0])])
def test_loss_refuses_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match=r"^labels: got"):
        nn.softmax_cross_entropy(np.zeros((2, 3), np.float32), labels)
