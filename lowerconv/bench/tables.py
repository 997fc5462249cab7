"""The tables of ``lowerconv bench``; a new one is a file with a `STUDY`, and a word here."""

from __future__ import annotations

from lowerconv.bench import (
    alexnet,
    cifar10,
    googlenet,
    pipeline,
    precision,
    roofline,
    threads,
    training,
)
from lowerconv.bench.study import Study

TABLES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (cifar10, googlenet, alexnet, threads, training, roofline, pipeline, precision)
}
