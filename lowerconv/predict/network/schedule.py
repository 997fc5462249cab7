"""The messages of a collective, and what each rank has done before it sends or receives them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lowerconv.predict.network.graph import GraphBuilder


class Schedule(NamedTuple):
    """Stages of ranks, and messages between them.

    A stage begins when all messages that belong to the one before have arrived, and what came has
    been added up.  A message is sent when both its stages have begun, and stage ``s + 1`` of each
    waits for it.

    Attributes
    ----------
    first, last : ndarray, (ranks,), int
        The stage in which each rank begins, and the one in which it is done.
    added : ndarray, (stages,), float64
        Bytes that are added up before each stage.
    source, target : ndarray, (messages,), int
        Ranks.
    source_stage, target_stage : ndarray, (messages,), int
    nbytes : ndarray, (messages,), float64
    messages : ndarray, (messages,), int
        How many messages, one after the other, each stands for.
    after, before : ndarray, int
        Stage ``after[i]`` waits for stage ``before[i]``, too; none by default.
    """

    first: np.ndarray
    last: np.ndarray
    added: np.ndarray
    source: np.ndarray
    target: np.ndarray
    source_stage: np.ndarray
    target_stage: np.ndarray
    nbytes: np.ndarray
    messages: np.ndarray
    after: np.ndarray = np.empty(0, np.int64)
    before: np.ndarray = np.empty(0, np.int64)

    def add_to(
        self,
        builder: GraphBuilder,
        hosts: np.ndarray,
        start: np.ndarray | None = None,
        adding: float = 0.0,
    ) -> np.ndarray:
        """Add the flows of this schedule to a graph.

        Parameters
        ----------
        builder : GraphBuilder
        hosts : ndarray, (ranks,), int
            The host of each rank.
        start : ndarray, (ranks,), int, optional
            The flow that each rank waits for before it begins; by default for none.
        adding : float
            Seconds that it takes to add up a byte.

        Returns
        -------
        ndarray, (ranks,), int32
            The flow with whose end each rank is done.
        """
        stages = builder.compute(self.added * adding)
        if start is not None:
            builder.wait(stages[self.first], start)
        flows = builder.send(
            hosts[self.source], hosts[self.target], self.nbytes, messages=self.messages
        )
        for stage in (self.source_stage, self.target_stage):
            builder.wait(flows, stages[stage])
            builder.wait(stages[stage + 1], flows)
        builder.wait(stages[self.after], stages[self.before])
        return stages[self.last]
