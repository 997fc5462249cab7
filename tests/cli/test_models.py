"""`lowerconv models`: a row for each, whose figures are those published."""

import re

from lowerconv.cli.main import main
from lowerconv.nn.models import MODELS


def test_each_model_has_a_row(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    assert set(MODELS) <= set(rows)
    image, classes, parameters, gflop, inference, training = rows["resnet50"]
    assert (image, classes, parameters) == ("3x224x224", "1,000", "25,557,032")
    assert float(gflop) == 8.18  # 4.09 G multiply-adds
    for name in MODELS:
        assert re.fullmatch(r"[0-9.]+", rows[name][3])
        inference, training = (float(cell.replace(",", "")) for cell in rows[name][4:])
        assert 0 < inference < training
