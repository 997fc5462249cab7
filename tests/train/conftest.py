"""What the tests of training share: small runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lowerconv.parallel import Communicator
from lowerconv.train import Trainer
from lowerconv.train.progress import Reporter


@pytest.fixture(scope="session")
def trainer(tiny_fashion) -> Callable[..., Trainer]:
    """Return a function that makes a quiet run of LeNet on 203 images, in batches of 32."""

    def make(out: Path, model="lenet", data=None, **changes) -> Trainer:
        settings = {"epochs": 1, "batch": 32, "lr": 0.02, "weight_decay": 5e-4, "seed": 1} | changes
        quiet = {"communicator": Communicator(), "reporter": Reporter()}
        data = f"fashion-mnist:{tiny_fashion}" if data is None else data
        return Trainer(model, data, out, **(quiet | settings))

    return make
