"""The exponential average of weights."""

import numpy as np
import pytest

from lowerconv import nn
from lowerconv.train.ema import WeightAverage


def test_it_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    layer = nn.Linear(7, 5, dtype=np.float64)
    optimizer = nn.SGD(layer, 0.3)
    average = WeightAverage(layer, 0.9)
    theirs = torch.nn.Linear(7, 5, dtype=torch.float64)
    averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    rng = np.random.default_rng(2)
    for _ in range(6):
        optimizer.grad[:] = rng.standard_normal(optimizer.grad.size)
        optimizer.step()
        average.update(optimizer.updates)
        for ours, parameter in zip(
            (layer.weight, layer.bias), (theirs.weight, theirs.bias), strict=True
        ):
            parameter.data.copy_(torch.tensor(ours.data))
        averaged.update_parameters(theirs)
    for name in ("weight", "bias"):
        expected = getattr(averaged.module, name).detach().numpy()
        np.testing.assert_allclose(average.values[name], expected, rtol=1e-13)


def test_weights_come_back_even_after_an_error():
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, 0.5)
    for values in average.values.values():
        values[...] = 7
    before = layer.weight.data.copy()

    def fail():
        assert (layer.weight.data == 7).all()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        average.in_place(fail)
    assert np.array_equal(layer.weight.data, before)
