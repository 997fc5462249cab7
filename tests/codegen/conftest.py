"""What the tests of generated code have in common."""

import random

import pytest


@pytest.fixture
def rng():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)
