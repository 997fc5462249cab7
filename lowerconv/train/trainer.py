"""A training run: a network, its data, and all that is kept of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from lowerconv.closing import close_all
from lowerconv.data import Augment
from lowerconv.data.loader import Loader
from lowerconv.data.source import Source
from lowerconv.machine.affinity import set_share
from lowerconv.machine.threads import get_num_threads, set_num_threads
from lowerconv.nn.divergence import check_weights
from lowerconv.nn.module import Module
from lowerconv.nn.optim import Optimizer
from lowerconv.parallel.agreement import check_facts_agree, check_weights_agree
from lowerconv.parallel.communicator import Communicator, together, world
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.roster import Roster
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.train.checkpoint import LAST, Checkpoint, CheckpointError, state
from lowerconv.train.directory import RunDirectory, default_path
from lowerconv.train.ema import WeightAverage
from lowerconv.train.loop import evaluate, train_epoch, update_sizes
from lowerconv.train.metrics import EpochMetrics, best_epoch
from lowerconv.train.pace import Pace
from lowerconv.train.progress import ConsoleReporter, Reporter, announce_compilation
from lowerconv.train.recording import Recording
from lowerconv.train.schedule import learning_rate
from lowerconv.train.setup import make_optimizer, read
from lowerconv.train.survival import Survival


class Trainer:
    """A run: network, data, optimizer, what it has measured, and where it is kept.

    Parameters
    ----------
    model : str or Module
        One of :data:`lowerconv.nn.models.MODELS`, initialised from the seed, or a network of your
        own, trained from the weights that it has.
    data : str or (Source, Source or None)
        What :func:`lowerconv.data.load` takes, or images to train with and to test on; None holds
        out some of the former, as setting ``validation`` says.
    out : path, optional
        Directory of ``metrics.csv``, ``curves.png`` and the checkpoints; by default a new one,
        ``runs/MODEL-DATA-NUMBER``. Only rank 0 writes.
    resume : bool
        Go on from the last checkpoint in `out`, by default in the last run of this model and data.
    tensorboard : bool
        Write events for TensorBoard too.
    parallel : str or ParallelOptions
        How ranks share the work: the name of a strategy, such as ``owt``, or all about it.
    communicator : Communicator, optional
        By default all ranks that ``mpiexec`` has started, this process taking its share of the
        cores. ``mpiexec -n 4 python -m mpi4py PROGRAM`` ends all of them when one fails.
    reporter : Reporter, optional
        By default prints on rank 0; ``Reporter()`` prints nothing.
    workers : int, optional
        Threads that make batches ahead of their use; default: those of `Loader`.
    cpus : collection of int, optional
        The only CPUs they run on.
    **settings
        Attributes of :class:`Settings`; by default those that suit the model.

    Attributes
    ----------
    settings : Settings
    network : Module
    history : list of EpochMetrics
    losses : list of float
        Mean loss of every update since this object was made.

    All ranks make one together, and it fails on all of them or on none.

    Raises
    ------
    TypeError, ValueError
        A setting, named in the message, that is none or out of its range.
    DisagreementError
        Ranks have different versions, settings, data or parameters.
    DataError
        Data that cannot be read.
    CheckpointError
        `out` holds a run already; or there is none to resume, it is damaged, or was made with other
        settings.
    RuntimeError
        Any of these on another rank, which the message names.
    """

    def __init__(
        self,
        model: str | Module,
        data: str | tuple[Source, Source | None],
        out: str | Path | None = None,
        *,
        resume: bool = False,
        tensorboard: bool = False,
        parallel: str | ParallelOptions = "data",
        communicator: Communicator | None = None,
        reporter: Reporter | None = None,
        workers: int | None = None,
        cpus: Collection[int] | None = None,
        **settings: Any,
    ) -> None:
        self.communicator = _join() if communicator is None else communicator

        # In each step all ranks fail or none: the next one is for all of them.
        setup = together(self.communicator, lambda: read(model, data, parallel, settings))
        if self.communicator.ranks > 1:
            check_facts_agree(self.communicator, together(self.communicator, setup.facts))
        self.settings, self.parallel = setup.settings, setup.parallel
        self.network, self.inputs = setup.network, setup.inputs
        self._sources, self._part = (setup.train_set, setup.test_set), setup.part
        self.roster = Roster.gather(self.communicator, get_num_threads())
        together(self.communicator, lambda: self._build(reporter, workers, cpus))
        try:
            together(self.communicator, lambda: self._open(out, resume, tensorboard))
        except BaseException:
            self.strategy.close()
            raise

    def _build(
        self, reporter: Reporter | None, workers: int | None, cpus: Collection[int] | None
    ) -> None:
        """Make what trains; writes nothing."""
        self.communicator.set_timeout(self.parallel.stall_timeout)
        if self.parallel.elastic:
            self.communicator.check_elastic()
        self.strategy = STRATEGIES[self.parallel.strategy](
            self.network,
            partial(make_optimizer, settings=self.settings),
            self.communicator,
            self.parallel,
            self._sources[0].image_shape,
        )
        self.average: WeightAverage | None = None
        if self.settings.ema is not None:
            self.average = WeightAverage(self.strategy.network, self.settings.ema)
        augment = Augment.parse(self.settings.augment) if self.settings.augment else None
        self._train, self._test = (
            Loader(
                source,
                self.inputs.normalizer(),
                self.settings.batch,
                *self.strategy.loader_share,
                augment=changes,
                workers=workers,
                cpus=cpus,
            )
            for source, changes in zip(self._sources, (augment, None), strict=True)
        )
        about = f"{self.settings.model} on {self.settings.data}"
        self._recording = Recording(self.parallel, self.communicator, about)
        self.history: list[EpochMetrics] = []
        self.losses: list[float] = []
        if reporter is None:
            chief = self.communicator.rank == 0
            reporter = ConsoleReporter(Console()) if chief else Reporter()
        reporter.part = self._part
        self.reporter = reporter

    def _open(self, out: str | Path | None, resume: bool, tensorboard: bool) -> None:
        """Make or resume the directory; rank 0's, the others might not see its file system."""
        self._tensorboard = tensorboard
        self._survival: Survival | None = None
        self._directory: RunDirectory | None = None
        self._restored: dict[str, np.ndarray] | None = None
        if self.communicator.rank == 0:
            names = self.settings.model, self.settings.data
            path = default_path(*names, resume) if out is None else Path(out)
            self._directory = RunDirectory(path)
            if resume:
                self._restore(self._directory.load(), path / LAST)
            else:
                self._directory.check_new()
            self._directory.open(self.history, tensorboard)

    @property
    def out(self) -> Path:
        """The directory of the run, on rank 0."""
        return self._directory.path if self._directory is not None else Path()

    def _restore(self, checkpoint: Checkpoint, path: Path) -> None:
        mine = json.loads(json.dumps(self._facts()))
        for name, value in (mine["settings"] | mine["inputs"]).items():
            saved = (checkpoint.state["settings"] | checkpoint.state["inputs"]).get(name)
            if saved != value:
                raise CheckpointError(f"{path}: was trained with {name} {saved!r}, not {value!r}")
        checkpoint.check(self.strategy.shapes(self._tensors()), path)
        self._restored = checkpoint.tensors
        self.optimizer.updates = checkpoint.state["updates"]
        self.history = [EpochMetrics(**row) for row in checkpoint.state["history"]]

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; of several that a strategy may have, the first."""
        return self.strategy.optimizer

    def _tensors(self) -> dict[str, np.ndarray]:
        """Return what this rank has of the arrays that updates change, as checkpoints name them."""
        averages = self.average.values if self.average is not None else {}
        return (
            state(self.strategy.network)
            | self.strategy.arrays()
            | {f"ema/{name}": array for name, array in averages.items()}
        )

    def _facts(self) -> dict[str, Any]:
        """Return all else that a checkpoint keeps."""
        return {
            "settings": asdict(self.settings),
            "inputs": asdict(self.inputs),
            "updates": self.optimizer.updates,
            "history": [asdict(row) for row in self.history],
        }

    def save(self) -> None:
        """Write the metrics and the checkpoints, on rank 0; all ranks call it."""
        self.communicator.status.note("writing the checkpoint")
        tensors = self.strategy.whole(self._tensors())
        if self._directory is not None:
            self._directory.save(Checkpoint(tensors, self._facts()), self.history)

    def fit(self) -> list[EpochMetrics]:
        """Train until all epochs are done, those of the checkpoint included; return the history.

        Whoever interrupts it (Ctrl-C) gets the weights in the midst of the epoch; the checkpoints
        are whole, and a trainer with ``resume=True`` goes on from the last one.

        Raises
        ------
        DivergenceError
            A loss or a weight is not finite; the checkpoints are of epochs before.
        """
        self._share()
        self.strategy.start()
        self._recording.start(self.strategy)
        self.communicator.status.observe(self.strategy.network)
        self.reporter.say(self.describe())
        for warning in self.communicator.warnings:
            self.reporter.say(f"warning: {warning}")
        for advice in self.roster.advice():
            self.reporter.say(f"advice: {advice}")
        closers: list[Callable[[], object]] = [
            self.strategy.close,
            self._train.close,
            self._test.close,
            lambda: self.reporter.close(),  # another one, where this rank speaks for a dead one
        ]
        if self._directory is not None:
            closers.append(self._directory.close)
        try:
            with announce_compilation(self.reporter):
                self._train_epochs()
            self.strategy.hand_back()
            self._tell_timeline(at_end=True)
            for line in self.strategy.report():
                self.reporter.say(line)
        finally:
            try:
                close_all(closers)
            except KeyboardInterrupt:
                close_all(closers)
                raise
        if self._directory is not None:
            with self.communicator.status.drawing():
                self._directory.draw(self.history, f"{self.settings.model} on {self.settings.data}")
        self._leave_together()
        return self.history

    def _leave_together(self) -> None:
        """Wait for all ranks, as long as a stall is noticed: MPI's own end would wait for ever."""
        try:
            self.communicator.gather(None)
        except Exception as error:
            if self._survival is None or not self._survival.may_go_on(error):
                raise

    def _tell_timeline(self, *, at_end: bool) -> None:
        told = self._recording.write(at_end=at_end)
        if told is not None:
            self.reporter.say(told)

    def _train_epochs(self) -> None:
        survival = Survival(self, self._tensorboard) if self.parallel.elastic else None
        self._survival = survival
        # Saved before the first epoch, so that a run killed in it can be resumed too.
        saved = bool(self.history)
        while True:
            try:
                if not saved:
                    self.save()
                    saved = True
                if len(self.history) < self.settings.epochs and not self._out_of_patience():
                    self.history.append(self._epoch(len(self.history)))
                    self.reporter.end_epoch(self.history[-1], self.settings.epochs)
                    saved = False
                    if survival is not None:
                        survival.end_epoch()
                    self._tell_timeline(at_end=False)
                    continue
                self._report_data()
                # A rank that left would look like one that has died to those that recover.
                if survival is None or self.communicator.agree(True):
                    return
            except Exception as error:
                if survival is None or not survival.may_go_on(error):
                    raise
            assert survival is not None
            self._recording.drop()
            survival.recover()
            saved = survival.begun

    def _share(self) -> None:
        """Give all ranks what rank 0 may have read from a checkpoint."""
        arrays = self._tensors()
        if self.communicator.broadcast(self._restored is not None):
            self.strategy.take(arrays, self._restored)
            self._restored = None
        else:
            for name in self.strategy.replicated():
                self.communicator.broadcast_array(arrays[name])
        self.history, self.optimizer.updates = self.communicator.broadcast(
            (self.history, self.optimizer.updates)
        )

    def _report_data(self) -> None:
        """Tell whether training waited for its data."""
        report = self._train.report()
        waits = self.communicator.sum_numbers(report.waits)[0]
        if report.workers:
            self.reporter.say(str(report))
            if waits > report.waits:
                self.reporter.say(f"data: all ranks together waited for {waits:.0f} batches")

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        if patience is None or len(self.history) - best_epoch(self.history) < patience:
            return False
        self.reporter.say(
            f"stopped: the {self.reporter.part} accuracy was best after epoch "
            f"{best_epoch(self.history)}, {patience} epochs ago"
        )
        return True

    def _epoch(self, epoch: int) -> EpochMetrics:
        images = len(self._train.dataset)
        self.reporter.start_epoch(epoch + 1, self.settings.epochs, images)
        survival = self._survival
        tally = None if survival is None else survival.begin(epoch)
        update = 0 if tally is None else tally.update
        before = update * self.settings.accumulate * self.settings.batch  # by ranks since died
        pace = Pace(self.reporter, self._train, before, warming_up=not self.losses)
        sizes = update_sizes(self._train, self.settings.accumulate)
        losses, all_right = train_epoch(
            self.strategy,
            self._train,
            epoch,
            self.settings.seed,
            lambda update: learning_rate(self.settings, update, len(sizes)),
            pace.after_batch,
            accumulate=self.settings.accumulate,
            label_smoothing=self.settings.label_smoothing,
            average=self.average,
            tally=tally,
            before_update=None if survival is None else survival.keep,
            check_every=self.parallel.checked_every,
            timeline=self._recording.timeline,
        )
        speed = pace.images_per_second()
        if epoch + 1 < self.settings.epochs:  # while the network is tested
            self._train.prefetch(self.settings.seed, epoch + 1)
        check_weights_agree(self.communicator, self.strategy.replicated())
        self._average_buffers()
        check_weights(self.strategy.network, epoch + 1)
        self.losses.extend(losses)
        test = partial(
            evaluate, self.strategy.infer, self._test, self.communicator, self.strategy.copies
        )
        test_loss, test_accuracy = test()
        ema_loss, ema_accuracy = None, None
        if self.average is not None:
            ema_loss, ema_accuracy = self.average.in_place(test)
        return EpochMetrics(
            epoch=epoch + 1,
            train_loss=float(losses @ sizes / images),
            train_accuracy=all_right / images,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            images_per_second=speed,
            seconds=pace.seconds(),
            learning_rate=self.optimizer.lr,
            ema_loss=ema_loss,
            ema_accuracy=ema_accuracy,
            **self.strategy.metrics(),
        )

    def _average_buffers(self) -> None:
        """Give all ranks the same statistics: the means of those that each has seen."""
        arrays = list(self.strategy.differing_buffers().values())
        if self.average is not None and not self.strategy.alike:
            arrays += self.average.values.values()
        for array in arrays:
            self.communicator.sum_array(array)
            array /= self.communicator.ranks

    def describe(self) -> str:
        """Return what runs where, in words: of several ranks a line for each kind of host."""
        parameters = sum(p.data.size for p in self.network.parameters().values())
        threads = f" x {get_num_threads()} thread" + ("s" if get_num_threads() > 1 else "")
        several = self.communicator.ranks > 1
        accumulate = self.settings.accumulate
        groups = f" x {accumulate} accumulated" if accumulate > 1 else ""
        return (
            f"{self.settings.model}, {parameters:,} parameters, on {self.settings.data}: "
            f"{len(self._train.dataset):,} training and {len(self._test.dataset):,} "
            f"{self.reporter.part} images; "
            f"{self.communicator.describe()}{'' if several else threads}, "
            f"batch {self.settings.batch}{groups}, algorithm {self.settings.algorithm}"
            + (f", augmented by {self.settings.augment}" if self.settings.augment else "")
            + (f"; {self.strategy.describe()}" if self.strategy.describe() else "")
            + "".join(f"\n{line}" for line in self.roster.lines() if several)
        )


def _join() -> Communicator:
    """Return all ranks of this job, having taken this one's share of the cores."""
    communicator = world()
    if communicator.ranks > 1:
        set_share(communicator.cpus)
        set_num_threads(communicator.threads)
    return communicator
