"""The training loop: synchronous data parallelism over any number of ranks, one included."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lowerconv.data.augment import Augment
from lowerconv.data.loader import Loader, Normalizer
from lowerconv.data.source import Source
from lowerconv.machine.threads import get_num_threads
from lowerconv.nn.loss import softmax_cross_entropy
from lowerconv.nn.models import MODELS
from lowerconv.nn.module import INFERENCE, Layer, Step
from lowerconv.nn.optim import SGD
from lowerconv.parallel.communicator import Communicator
from lowerconv.train.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from lowerconv.train.metrics import EpochMetrics, draw_curves, write_csv
from lowerconv.train.progress import Reporter
from lowerconv.train.schedule import cosine

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Settings:
    """All that decides what a run computes.

    ``batch`` counts the samples of all ranks together; ``lr`` is where the learning rate starts;
    ``augment`` is what `Augment.parse` takes, None for images as they are.
    """

    model: str
    data: str
    epochs: int
    batch: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int
    algorithm: str = "auto"
    augment: str | None = None


def train_epoch(
    network: Layer,
    optimizer: SGD,
    loader: Loader,
    epoch: int,
    seed: int,
    learning_rate: Callable[[int], float],
    communicator: Communicator,
    after_step: Callable[[int, float, int], None],
) -> tuple[np.ndarray, int]:
    """Train on every batch of an epoch.

    Parameters
    ----------
    epoch : int
        From 0.
    learning_rate : callable
        Told the number of a step of the run, from 0.
    after_step : callable
        Told after each step, from this rank's share: samples done, their loss, how many were right.

    Returns
    -------
    losses : ndarray, (steps,)
        Mean loss of each global batch, before its update.
    right : int
        Samples of all ranks whose class was found.
    """
    losses = np.zeros(len(loader))
    right = 0
    for number, batch in enumerate(loader.batches(seed, epoch)):
        step = Step(True, seed, epoch * len(loader) + number, batch.first_sample)
        optimizer.lr = learning_rate(step.number)
        scores = network.run(batch.images, step)
        result = softmax_cross_entropy(scores, batch.labels, batch.size)
        network.backward(result.gradient)
        communicator.sum_array(optimizer.grad)
        optimizer.step()
        losses[number] = result.loss
        right += result.right
        after_step(len(batch.labels), result.loss, result.right)
    communicator.sum_array(losses)
    return losses / loader.batch_sizes, int(communicator.sum_numbers(right)[0])


def evaluate(network: Layer, loader: Loader, communicator: Communicator) -> tuple[float, float]:
    """Return loss and accuracy over a data set, each rank having looked at its share."""
    loss, right = 0.0, 0
    for batch in loader.batches():
        scores = network.run(batch.images, INFERENCE)
        result = softmax_cross_entropy(scores, batch.labels)
        loss += result.loss
        right += result.right
    all_loss, all_right = communicator.sum_numbers(loss, right)
    return all_loss / len(loader.dataset), all_right / len(loader.dataset)


class Trainer:
    """A run: network, data, optimizer, what it has measured, and where it is kept.

    Parameters
    ----------
    settings : Settings
    train_set, test_set : Source
    out : Path
        Directory of ``metrics.csv``, ``curves.png`` and the checkpoint; only rank 0 writes.
    communicator : Communicator
    reporter : Reporter
    workers : int, optional
        Threads that make batches ahead of their use; default: those of `Loader`.
    cpus : collection of int, optional
        The only CPUs they run on.

    Attributes
    ----------
    network : Sequential
    history : list of EpochMetrics
    losses : list of float
        Mean loss of every step since this object was made.
    """

    def __init__(
        self,
        settings: Settings,
        train_set: Source,
        test_set: Source,
        out: Path,
        communicator: Communicator,
        reporter: Reporter,
        workers: int | None = None,
        cpus: Collection[int] | None = None,
    ) -> None:
        self.settings, self.out = settings, Path(out)
        self.communicator, self.reporter = communicator, reporter
        model = MODELS[settings.model]
        self.network = model.build(
            train_set.image_shape, len(train_set.classes), settings.algorithm
        )
        self.network.initialize(np.random.default_rng(settings.seed))
        self.optimizer = SGD(self.network, settings.lr, settings.momentum, settings.weight_decay)
        normalizer = Normalizer(train_set)
        augment = Augment.parse(settings.augment) if settings.augment else None
        self._train, self._test = (
            Loader(
                source,
                normalizer,
                settings.batch,
                communicator.rank,
                communicator.ranks,
                augment=changes,
                workers=workers,
                cpus=cpus,
            )
            for source, changes in ((train_set, augment), (test_set, None))
        )
        self.history: list[EpochMetrics] = []
        self.losses: list[float] = []

    @property
    def _checkpoint_path(self) -> Path:
        return self.out / CHECKPOINT

    def resume(self) -> None:
        """Go on from the checkpoint in `out`, which rank 0 reads.

        Raises
        ------
        CheckpointError
            On rank 0: there is none, it is damaged, or it is of other settings.
        """
        if self.communicator.rank == 0:
            self._restore(load_checkpoint(self._checkpoint_path))

    def _restore(self, checkpoint: Checkpoint) -> None:
        path, mine = self._checkpoint_path, asdict(self.settings)
        saved = checkpoint.state["settings"]
        for name in mine:
            if saved.get(name) != mine[name]:
                raise CheckpointError(
                    f"{path}: was trained with {name} {saved.get(name)!r}, not {mine[name]!r}"
                )
        for name, array in self._tensors().items():
            stored = checkpoint.tensors.get(name)
            if stored is None or stored.shape != array.shape or stored.dtype != array.dtype:
                found = "nothing" if stored is None else f"{stored.dtype} {stored.shape}"
                raise CheckpointError(
                    f"{path}: tensor {name!r} is {found}, expected {array.dtype} {array.shape}"
                )
            array[...] = stored
        self.history = [EpochMetrics(**row) for row in checkpoint.state["history"]]

    def _tensors(self) -> dict[str, np.ndarray]:
        """Return the parameters, and the optimizer's velocities in the same order and shapes."""
        tensors, start = {}, 0
        for name, parameter in self.network.parameters().items():
            stop = start + parameter.data.size
            tensors[name] = parameter.data
            velocity = self.optimizer.velocity[start:stop]
            tensors[f"velocity.{name}"] = velocity.reshape(parameter.data.shape)
            start = stop
        return tensors

    def save(self) -> None:
        """Write the checkpoint and the metrics."""
        state = {
            "settings": asdict(self.settings),
            "history": [asdict(row) for row in self.history],
        }
        save_checkpoint(self._checkpoint_path, Checkpoint(self._tensors(), state))
        write_csv(self.out / "metrics.csv", self.history)

    def fit(self) -> None:
        """Train until all epochs are done, those of the checkpoint included."""
        for array in (self.optimizer.data, self.optimizer.velocity):
            self.communicator.broadcast_array(array)
        self.history = self.communicator.broadcast(self.history)
        chief = self.communicator.rank == 0
        if chief and not self.history:
            self.save()  # so that a run killed in its first epoch can be resumed too
        for epoch in range(len(self.history), self.settings.epochs):
            self.history.append(self._epoch(epoch))
            if chief:
                self.reporter.end_epoch(self.history[-1], self.settings.epochs)
                self.save()
        self._report_data()
        if chief:
            title = f"{self.settings.model} on {self.settings.data}"
            draw_curves(self.out / "curves.png", self.history, title)

    def _report_data(self) -> None:
        """Tell whether training waited for its data, and end the threads that made it."""
        report = self._train.report()
        waits = self.communicator.sum_numbers(report.waits)[0]
        if report.workers:
            self.reporter.say(str(report))
            if waits > report.waits:
                self.reporter.say(f"data: all ranks together waited for {waits:.0f} batches")
        for loader in (self._train, self._test):
            loader.close()

    def _learning_rate(self, step: int) -> float:
        return cosine(self.settings.lr, step, self.settings.epochs * len(self._train))

    def _epoch(self, epoch: int) -> EpochMetrics:
        ranks = self.communicator.ranks
        self.reporter.start_epoch(epoch + 1, self.settings.epochs, len(self._train.dataset))
        begin = time.perf_counter()
        first_step = begin
        done, loss, right, steps = 0, 0.0, 0, 0

        def after_step(samples: int, step_loss: float, step_right: int) -> None:
            nonlocal done, loss, right, steps, first_step
            done, loss, right = done + samples, loss + step_loss, right + step_right
            steps += 1
            if steps == 1 and len(self._train) > 1:
                first_step = time.perf_counter()
                if not self.losses:
                    self.reporter.say(f"first step after {first_step - begin:.1f} s")
            images = min(done * ranks, len(self._train.dataset))
            self.reporter.step(images, loss / max(1, done), right / max(1, done))

        losses, all_right = train_epoch(
            self.network,
            self.optimizer,
            self._train,
            epoch,
            self.settings.seed,
            self._learning_rate,
            self.communicator,
            after_step,
        )
        trained = time.perf_counter()
        if epoch + 1 < self.settings.epochs:  # while the network is tested
            self._train.prefetch(self.settings.seed, epoch + 1)
        self._check_agreement()
        self.losses.extend(losses)
        test_loss, test_accuracy = evaluate(self.network, self._test, self.communicator)
        images = len(self._train.dataset)
        timed = images - (self._train.batch if first_step > begin else 0)
        return EpochMetrics(
            epoch=epoch + 1,
            train_loss=float(losses @ self._train.batch_sizes / images),
            train_accuracy=all_right / images,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            images_per_second=timed / (trained - first_step),
            seconds=time.perf_counter() - begin,
        )

    def _check_agreement(self) -> None:
        """Raise if the ranks' weights differ in a single bit: they would train apart."""
        sums = self.communicator.gather(zlib.crc32(self.optimizer.data.tobytes()))
        if len(set(sums)) > 1:
            raise RuntimeError(f"weights differ between ranks: checksums {sums}")

    def describe(self) -> str:
        """Return what runs where, in words."""
        parameters = self.optimizer.data.size
        threads = f"{get_num_threads()} thread" + ("s" if get_num_threads() > 1 else "")
        return (
            f"{self.settings.model}, {parameters:,} parameters, on {self.settings.data}: "
            f"{len(self._train.dataset):,} training and {len(self._test.dataset):,} test images; "
            f"{self.communicator.describe()} x {threads}, "
            f"batch {self.settings.batch}, algorithm {self.settings.algorithm}"
            + (f", augmented by {self.settings.augment}" if self.settings.augment else "")
        )
