"""Files of calibrations: round trips, and what damage is told of."""

import json
import re

import numpy as np
import pytest

from lowerconv.predict.calibration import (
    HOST,
    Calibration,
    CalibrationError,
    load,
    save,
)

from .made_up import calibration, link_seconds, step_seconds


def test_round_trip(tmp_path):
    known = calibration(crowds=[(2, 1.25), (3, 1.5)])
    save(known, tmp_path / "a.json")
    assert load(tmp_path / "a.json") == known
    assert load(tmp_path / "a.json").cpu == "made up"


def places(content, path=()):
    """Yield the paths of all values below the fields, except those of the machine report."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if (*path, key)[0] == "machine":
            continue
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


def parent_of(content, path):
    for key in path[:-1]:
        content = content[key]
    return content


WRONG = (None, True, "text", -1, -0.5, float("nan"), float("inf"), 1e300, [], {}, [[]], {"a": 1})


def damaged(content, path, rng):
    """Damage a value in one of some ways; return how, in words, or None where that may be right."""
    parent, key = parent_of(content, path), path[-1]
    way = rng.integers(3)
    if way == 0 and isinstance(parent, dict):
        value = parent.pop(key)
        return f"{key} missing" if not (isinstance(value, dict) and len(parent)) else None
    if way == 1 and isinstance(parent, dict) and "." not in str(key):
        parent[f"{key} "] = parent.pop(key)
        return f"{key} renamed"
    wrong = WRONG[rng.integers(len(WRONG))]
    fits = isinstance(parent[key], str) and wrong == "text"  # another name is no damage
    empty = isinstance(parent[key], list) and wrong == [] and key in ("crowds", "links")
    parent[key] = wrong
    return None if fits or empty else f"{key} = {wrong!r}"


def test_damage_is_told_with_the_field(tmp_path):
    rng = np.random.default_rng(seed := 17)
    print("seed", seed)
    save(calibration(crowds=[(2, 1.25)]), tmp_path / "whole.json")
    text = (tmp_path / "whole.json").read_text()
    path, tried = tmp_path / "a.json", 0
    while tried < 300:
        content = json.loads(text)
        found = list(places(content))
        place = found[rng.integers(len(found))]
        how = damaged(content, place, rng)
        if how is None:
            continue
        path.write_text(json.dumps(content))
        with pytest.raises(CalibrationError) as raised:
            print(how, place, load(path))
        message = str(raised.value)
        assert message.startswith(f"{path}: ")
        # The field at fault, or one that contradicts it.
        assert re.match(r"[a-z]+[a-z0-9_.\[\]: -]*: ", message.removeprefix(f"{path}: ")), message
        tried += 1


def test_bytes_that_are_cut_off_or_changed(tmp_path):
    rng = np.random.default_rng(seed := 18)
    print("seed", seed)
    save(calibration(), tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    path = tmp_path / "a.json"
    for _ in range(300):
        path.write_bytes(whole[: rng.integers(len(whole) - 1)])
        with pytest.raises(CalibrationError):
            load(path)
    for _ in range(300):
        content = bytearray(whole)
        content[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert isinstance(load(path), Calibration)  # another digit, or a blank
        except CalibrationError as error:
            assert str(error).startswith(f"{path}: ")
    path.write_text("[" * 100_000)
    with pytest.raises(CalibrationError):
        load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [step_seconds(20), step_seconds(10)]}, r"steps: got \[20, 10\] images"),
        ({"steps": [step_seconds(1, 0.0)]}, r"steps\[0\].seconds: got 0.0"),
        ({"links": [link_seconds(HOST), link_seconds(HOST)]}, r"links: got \['host', 'host'\]"),
        ({"links": [link_seconds("wire")]}, r"links\[0\].kind: got 'wire', expected host or"),
        ({"crowds": [(2, 1.0), (2, 1.5)]}, r"crowds: got \[2, 2\]"),
    ],
)
def test_parts_that_contradict_each_other(change, message):
    with pytest.raises(ValueError, match=message):
        calibration(**change)


def test_fields_are_named(tmp_path):
    path = tmp_path / "a.json"
    save(calibration(), path)
    content = json.loads(path.read_text())
    content["steps"][1]["forward"][0]["seconds"] = -1
    path.write_text(json.dumps(content))
    expected = r"a.json: steps\[1\].forward\[0\].seconds: got -1, expected at least 0"
    with pytest.raises(CalibrationError, match=expected):
        load(path)
    path.write_text(json.dumps(content | {"format": "another"}))
    with pytest.raises(CalibrationError, match="format: expected 'lowerconv calibration 2'"):
        load(path)
