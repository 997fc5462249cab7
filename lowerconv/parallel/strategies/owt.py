"""Hybrid parallelism: data-parallel convolutions, model-parallel fully connected layers.

Convolutions have few weights and much to compute, fully connected layers the reverse: so gradients
of the former are summed, and activations of the latter are sent.  Krizhevsky, "One weird trick for
parallelizing convolutional neural networks" (2014), sections 3 and 4.
docs/cluster.md tells a step message by message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from lowerconv.data.order import share
from lowerconv.nn.divergence import DivergenceError, describe_divergence
from lowerconv.nn.graph import Graph
from lowerconv.nn.linear import Linear
from lowerconv.nn.loss import AUXILIARY, LossResult, network_loss, softmax_cross_entropy
from lowerconv.nn.module import Module
from lowerconv.nn.norm import BatchNorm2d
from lowerconv.nn.recording import parameter_dtype
from lowerconv.nn.step import INFERENCE, Step
from lowerconv.parallel.comm.listener import LOSS, UPDATE
from lowerconv.parallel.comm.overlap import make_engine
from lowerconv.parallel.sharding.batch_exchange import (
    BatchExchange,
    Chunk,
    chunks_of_step,
    pieces_of,
)
from lowerconv.parallel.sharding.cut import NetworkPart, cut_network, default_border
from lowerconv.parallel.sharding.split import SplitNetwork
from lowerconv.parallel.strategies.accumulation import GradientAccumulation
from lowerconv.parallel.strategies.data import DataParallel
from lowerconv.parallel.strategies.model import SplitStrategy, describe_parts
from lowerconv.parallel.strategies.strategy import Work
from lowerconv.parallel.trace.timeline import Timeline


class OWT(SplitStrategy):
    """The network up to a border as in data parallelism, after it as in model parallelism.

    The result of a step is that of one process, to rounding, whatever the scheme, if the layers
    after the border are updated once a step.  Exceptions are those of data parallelism: batch norm
    that is not synchronized knows its rank's samples, and after the border those of a chunk.

    With ``owt_updates=K`` (Krizhevsky, section 4.1, "variable batch size") the layers after the
    border are updated K times a step, each time after about 1/K of the batch: with the mean
    gradient of these n of N samples, and the learning rate of the step times n / N.  A step moves
    them about as far as one update does, but later chunks, and the gradients that the layers before
    the border get from them, see weights that earlier ones have changed.

    Parameters as of :class:`Strategy`.

    Attributes
    ----------
    data_parallel : DataParallel
        The strategy of the layers before the border.
    split : SplitNetwork
        This rank's part of those after it.
    chunks, updates : int
        How many chunks a batch is cut into, and after how many parts of it `split` is updated.

    Raises
    ------
    ValueError
        The network cannot be cut there, or cannot be trained so.
    """

    def _build(self) -> None:
        communicator, options = self.communicator, self.options
        network, image_shape, make_optimizer = self.network, self.image_shape, self.make_optimizer
        self.border = options.owt_border or default_border(network, image_shape)
        front, back = cut_network(network, self.border, image_shape)
        for part, where in ((front, "before"), (back, "after")):
            if not part.parameters():
                raise ValueError(
                    f"owt_border: got {self.border!r}, {where} which nothing is learnt, expected a "
                    "layer in the middle of others that have parameters"
                )
        self.scheme = options.owt_scheme
        self.chunks = pieces_of(options, communicator.ranks)
        self.updates = options.owt_updates
        self._check_norms(back)
        self.data_parallel = DataParallel(front, make_optimizer, communicator, options, image_shape)
        self.engine = self.data_parallel.engine = make_engine(communicator, options)
        graph = Graph(front, (1, *image_shape), parameter_dtype(front), training=False)
        self.split = SplitNetwork(back, graph.results[0].shape, self.engine, input_partial=True)
        self._progress_between_layers(self.split)
        self.network = NetworkPart([*front.layers, *self.split.layers])
        self.optimizers = [self.data_parallel.optimizer, self.make_split_optimizer(make_optimizer)]
        self.exchange = BatchExchange(self.engine)
        self._linear, others = self._find_accumulating()
        self.accumulation = GradientAccumulation(others)

    def _find_accumulating(self) -> tuple[list[Linear], list[np.ndarray]]:
        """Return the layers after the border that can add to their weights' gradients themselves.

        With them come the gradients of all other parameters after the border.
        """
        layers = {n: m for n, m in self.split.layers if isinstance(m, Linear)}
        gradients = self.optimizers[1].by_name(self.optimizers[1].grad)
        own = {f"{name}.weight" if name else "weight" for name in layers}
        return list(layers.values()), [g for name, g in gradients.items() if name not in own]

    def _check_norms(self, back: Module) -> None:
        for name, layer in back.modules():
            if isinstance(layer, BatchNorm2d) and layer.synchronized and self.chunks > 1:
                raise ValueError(
                    f"owt_scheme: got {self.scheme!r} with {name!r} after the border, "
                    "synchronized batch norm that has to see the whole batch; expected 'a'"
                )

    @property
    def running(self) -> list[Module]:
        """The two parts: `network` only names what is in them."""
        return [self.data_parallel.network, self.split]

    def listen(self, timeline: Timeline) -> None:
        """Let a timeline hear what this rank does; after `start`."""
        super().listen(timeline)
        self.data_parallel.listener = timeline

    # --- training ---

    def start(self) -> None:
        """Decide how gradients are summed; all ranks come here together."""
        self.data_parallel.start()
        self.optimizers[1].updates = self.updates * self.optimizer.updates

    def train(self, work: Work) -> LossResult:
        """Compute a step; return the loss of this rank's samples."""
        if self.updates > 1 and not (work.first and work.last):
            raise ValueError(
                f"owt_updates: got {self.updates} with several batches in an update, expected 1"
            )
        ranks = self.communicator.ranks
        counts = [len(share(work.batch, r, ranks)) for r in range(ranks)]
        labels_task, labels = self.exchange.all_gather(
            work.labels, Chunk([range(n) for n in counts]), "labels", 0
        )
        border, *others = as_tuple(self.data_parallel.network.run(work.images, work.step))
        self.engine.wait(labels_task)
        dborder = self.exchange.buffer("own gradient", 0, border.shape, border.dtype)
        result = self._train_back(work, counts, border, dborder, labels)
        gradients = [dborder]
        for scores in others:
            loss = softmax_cross_entropy(scores, work.labels, work.size, work.label_smoothing)
            gradients.append(loss.gradient * loss.gradient.dtype.type(AUXILIARY))
        self.data_parallel.backward(tuple(gradients), work)
        return result

    def _train_back(
        self,
        work: Work,
        counts: list[int],
        border: np.ndarray,
        dborder: np.ndarray,
        labels: np.ndarray,
    ) -> LossResult:
        """Compute what is after the border, chunk by chunk, and the gradient of the border."""
        rank, exchange = self.communicator.rank, self.exchange
        first = np.cumsum([0, *counts[:-1]]).tolist()  # the first sample of each rank, in the batch
        # Where the batch begins in its update: what dropout draws depends on places there.
        batch_offset = work.step.first_sample - first[rank]
        loss, correct, samples, is_first = 0.0, 0, 0, work.first
        for chunk, ends_update, chunk_border in self._received(border, counts):
            parts = [range(f + r.start, f + r.stop) for f, r in zip(first, chunk.rows, strict=True)]
            runs = tuple((batch_offset + part.start, len(part)) for part in parts)
            step = replace(work.step, input_grad=True, communicator=None, runs=runs)
            chunk_labels = np.concatenate([labels[part.start : part.stop] for part in parts])
            results = self.split.run(chunk_border, step)
            with self.listener.doing(LOSS):
                # That of the chunk gives the gradients, the same on all ranks; that of this rank's
                # samples is only reported.
                smoothing = work.label_smoothing
                chunk_loss, gradients = network_loss(results, chunk_labels, work.size, smoothing)
                scores, place = as_tuple(results)[0], chunk.places[rank]
                own_loss = softmax_cross_entropy(
                    scores[place], chunk_labels[place], None, smoothing
                )
            if not isfinite(chunk_loss.loss):
                error = self._describe_divergence(work, chunk_border, step, chunk_loss.loss)
                raise DivergenceError(error)
            loss, correct = loss + own_loss.loss, correct + own_loss.correct
            samples += chunk.size
            for layer in self._linear:
                layer.accumulates = not is_first
            dchunk_border = self.split.backward(*gradients)
            assert dchunk_border is not None
            exchange.reduce_gradient(dchunk_border, chunk, dborder)
            updated = self._update_back(is_first, ends_update, samples, work)
            is_first, samples = updated, 0 if updated else samples
        exchange.finish()
        return LossResult(loss, correct, np.empty((0, 0)))

    def _received(
        self, border: np.ndarray, counts: list[int]
    ) -> Iterator[tuple[Chunk, bool, np.ndarray]]:
        """Yield each chunk with the border values of all ranks; those of the next are under way."""
        chunks = chunks_of_step(counts, self.scheme, self.chunks, self.updates)
        following = self.exchange.all_gather(border, chunks[0][0], "border", 0)
        for number, (chunk, ends_update) in enumerate(chunks, 1):
            task, chunk_border = following
            self.engine.wait(task)
            if number < len(chunks):
                later, slot = chunks[number][0], number % 2
                following = self.exchange.all_gather(border, later, "border", slot)
            yield chunk, ends_update, chunk_border

    def _update_back(self, is_first: bool, ends_update: bool, samples: int, work: Work) -> bool:
        """Add the gradients of earlier chunks, and update or keep them; return whether updated.

        Parameters
        ----------
        is_first : bool
            Whether there are none before.
        ends_update : bool
            Whether the chunk is the last before an update of these layers; they are updated only
            in the last batch of an update of the others (``work.last``).
        samples : int
            How many the gradients are of.
        work : Work
        """
        optimizer = self.optimizers[1]
        with self.listener.doing(UPDATE, "after the border"):
            self.accumulation.add(is_first, ends_update and work.last)
            if not (ends_update and work.last):
                return False
            part = samples / work.size if self.updates > 1 else 1.0
            if part != 1:
                optimizer.grad *= optimizer.grad.dtype.type(1 / part)
            optimizer.lr = part * work.lr
            optimizer.step()
        return True

    def _describe_divergence(
        self, work: Work, chunk_border: np.ndarray, step: Step, loss: float
    ) -> str:
        """Tell which layer is to blame; all ranks come here together, with the same chunk."""
        if np.isfinite(chunk_border).all():
            return describe_divergence(self.split, chunk_border, step, loss)
        return describe_divergence(self.data_parallel.network, work.images, work.step, loss)

    # --- all else ---

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return the scores of this rank's images; all ranks call it together."""
        counts, rank = self.communicator.gather(len(images)), self.communicator.rank
        border = self.data_parallel.network.run(images, INFERENCE)
        found = None
        for chunk, _, chunk_border in self._received(border, counts):
            scores = self.split.run(chunk_border, INFERENCE)
            if found is None:
                found = np.empty((len(images), *scores.shape[1:]), scores.dtype)
            rows = chunk.rows[rank]
            found[rows.start : rows.stop] = scores[chunk.places[rank]]
        assert found is not None
        return found

    def differing_buffers(self) -> dict[str, np.ndarray]:
        """Return the buffers before the border: after it all ranks have seen the same."""
        return self.data_parallel.network.buffers()

    def flush_updates(self) -> None:
        """Make the updates before the border that were left for later."""
        self.data_parallel.flush_updates()

    def close(self) -> None:
        """End the communication thread."""
        super().close()
        self.data_parallel.close()

    def describe(self) -> str:
        """Return where the border is, and how a batch crosses it."""
        if self.communicator.ranks == 1:
            return ""
        chunks = self.chunks
        updates = f", {self.updates} updates" if self.updates > 1 else ""
        return (
            f"border before layer {self.border}, scheme {self.scheme} with {chunks} chunk"
            f"{'s' * (chunks > 1)}{updates}, {describe_parts(self.split)} after it; "
            f"{self.data_parallel.describe()}"
        )


def as_tuple(results: Any) -> tuple[np.ndarray, ...]:
    """Return what `Module.run` returns as a tuple."""
    return results if isinstance(results, tuple) else (results,)
