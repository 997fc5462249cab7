"""What is measured for a calibration, of trials that are made up."""

import numpy as np
import pytest

from lowerconv.predict import calibrate

from .made_up import step_seconds


class MadeUpTrial:
    """Steps of 1 ms an image and 10 ms more, on a machine that gets slower with each trial."""

    made = 0

    def __init__(self, setup, images):
        type(self).made += 1
        self.images, self.loader = images, self
        self.workers = 0

    def times(self, seconds):
        slower = 1 + 0.001 * self.made
        return np.full(5, slower * 1e-3 * (10 + self.images))

    def close(self):
        self.images = None


@pytest.fixture
def trials(monkeypatch):
    monkeypatch.setattr(MadeUpTrial, "made", 0)
    monkeypatch.setattr(calibrate, "Trial", MadeUpTrial)


def of_seconds(images, seconds):
    return step_seconds(images, 0.9 * seconds / 6, input=0.1 * seconds)


def test_shares_have_the_proportion_that_they_have_in_turns(trials):
    """The second one was measured when the machine was half as fast."""
    steps = [of_seconds(10, 0.020), of_seconds(30, 0.080)]
    found = calibrate.measure_in_turns(None, steps, 60.0)
    taken = [step.seconds + step.input for step in found]
    assert taken[1] / taken[0] == pytest.approx(2, rel=0.01)
    assert taken[0] / 0.020 + taken[1] / 0.080 == pytest.approx(2)
    assert found[1].input == pytest.approx(0.1 * taken[1])
    assert found[1].arena == steps[1].arena
    assert MadeUpTrial.made == 2 * calibrate.TURNS


def test_without_time_for_turns_steps_stay_as_they_are(trials):
    steps = [of_seconds(10, 0.020), of_seconds(30, 0.080)]
    assert calibrate.measure_in_turns(None, steps, 0.0) == steps
    assert calibrate.measure_in_turns(None, steps[:1], 60.0) == steps[:1]
    assert MadeUpTrial.made == 0
