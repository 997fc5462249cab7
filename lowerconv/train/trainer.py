"""A training run: a network, its data, and all that is kept of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lowerconv.arguments import Place, checked
from lowerconv.closing import close_all
from lowerconv.console import PlainConsole
from lowerconv.copying import not_copied
from lowerconv.data import Augment, DataWarning
from lowerconv.data.loader import Loader
from lowerconv.data.source import Source
from lowerconv.nn.module import Module
from lowerconv.nn.optim import Optimizer
from lowerconv.parallel.comm.agreement import check_facts_agree
from lowerconv.parallel.comm.communicator import Communicator, together
from lowerconv.parallel.comm.rank_map import RankMap
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train import resume as resuming
from lowerconv.train.checkpoint import LAST, Checkpoint, state
from lowerconv.train.describe import describe_run, report_data
from lowerconv.train.directory import RunDirectory, last_path, new_path
from lowerconv.train.elastic_recovery import ElasticRecovery
from lowerconv.train.ema import WeightAverage
from lowerconv.train.epoch import train_and_test
from lowerconv.train.loop import update_sizes
from lowerconv.train.metrics import EpochMetrics, best_epoch
from lowerconv.train.progress import ConsoleReporter, Reporter, announce_compilation
from lowerconv.train.recording import Recording
from lowerconv.train.setup import join, make_optimizer, names, read
from lowerconv.train.tensorboard import require_tensorboard

OUT = Place("a directory")


@not_copied(
    "make another from its arguments; `copy.deepcopy(trainer.network)` copies what has been learnt"
)
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
        Settings that are not given are those of the checkpoint; `epochs`, `patience` and
        `algorithm` may be others, and so may the place of the data and the number of ranks: what
        changes is said. Whatever else would change the result is refused.
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
        settings or images.
    BusyError
        Another process writes to `out`.
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
        self.communicator = join() if communicator is None else communicator

        # In each step all ranks fail or none: the next one is for all of them.
        self._directory: RunDirectory | None = None
        try:
            saved = together(self.communicator, lambda: self._load(model, data, out, resume))
            self._set_up(model, data, parallel, settings, saved, (reporter, workers, cpus))
            try:
                together(self.communicator, lambda: self._open(out, saved, tensorboard))
            except BaseException:
                self.strategy.close()
                raise
        except BaseException:
            if self._directory is not None:
                self._directory.close()
            raise

    def _load(
        self,
        model: str | Module,
        data: str | tuple[Source, Source | None],
        out: str | Path | None,
        resume: bool,
    ) -> Checkpoint | None:
        """Return the checkpoint to go on from, on rank 0: others might not see its file system."""
        if out is not None:
            checked("out", OUT, out)
        if not resume or self.communicator.rank:
            return None
        self._directory = RunDirectory(last_path(*names(model, data)) if out is None else Path(out))
        return self._directory.resume()

    def _set_up(
        self,
        model: str | Module,
        data: str | tuple[Source, Source | None],
        parallel: str | ParallelOptions,
        given: dict[str, Any],
        saved: Checkpoint | None,
        tools: tuple[Reporter | None, int | None, Collection[int] | None],
    ) -> None:
        """Read and build all that a run is made of; writes nothing."""
        before = self.communicator.broadcast(saved.state["settings"] if saved else None)
        with warnings.catch_warnings():
            if self.communicator.rank:  # all read the same data: what is odd about it is told once
                warnings.simplefilter("ignore", DataWarning)
            setup = together(self.communicator, lambda: read(model, data, parallel, given, before))
        if self.communicator.ranks > 1:
            check_facts_agree(self.communicator, together(self.communicator, setup.facts))
        self.settings, self.parallel = setup.settings, setup.parallel
        self.network, self.inputs = setup.network, setup.inputs
        self._sources, self._part = (setup.train_set, setup.test_set), setup.part
        self._images = together(self.communicator, lambda: resuming.describe_images(setup))
        self.roster = RankMap.gather(self.communicator, get_num_threads())
        together(self.communicator, lambda: self._build(*tools))

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
            reporter = ConsoleReporter(PlainConsole()) if chief else Reporter()
        reporter.part = self._part
        self.reporter = reporter

    def _open(self, out: str | Path | None, saved: Checkpoint | None, tensorboard: bool) -> None:
        """Make the directory, or take what it has; rank 0's."""
        self._tensorboard = tensorboard
        self._recovery: ElasticRecovery | None = None
        self._restored: dict[str, np.ndarray] | None = None
        self._changes: list[str] = []
        if self.communicator.rank:
            return
        if tensorboard:
            require_tensorboard()
        if self._directory is not None and saved is not None:
            self._restore(saved, self._directory.path / LAST)
        else:
            settings = self.settings
            path = new_path(settings.model, settings.data) if out is None else Path(out)
            self._directory = RunDirectory(path)
            self._directory.begin()
        if tensorboard:
            self._directory.record(self.history)

    @property
    def out(self) -> Path:
        """The directory of the run, on rank 0."""
        return self._directory.path if self._directory is not None else Path()

    def _restore(self, checkpoint: Checkpoint, path: Path) -> None:
        self._changes = resuming.check(
            checkpoint.state,
            self.settings,
            self.inputs,
            self._images,
            self._work(),
            self.network,
            len(update_sizes(self._train, self.settings.accumulate)),
            path,
        )
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
            "images": self._images,
            "work": self._work(),
            "updates": self.optimizer.updates,
            "history": [asdict(row) for row in self.history],
        }

    def _work(self) -> dict[str, Any]:
        return resuming.describe_work(self.parallel, self.communicator.ranks)

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
        closers: list[Callable[[], object]] = [
            self.strategy.close,
            self._train.close,
            self._test.close,
            lambda: self.reporter.close(),  # another one, where this rank speaks for a dead one
        ]
        if self._directory is not None:
            closers.append(self._directory.close)
        try:
            self._share()
            self.strategy.start()
            self._recording.start(self.strategy)
            for module in self.strategy.running:
                closers.insert(0, self.communicator.status.observe(module).remove)
            self._tell_plan()
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

    def _tell_plan(self) -> None:
        self.reporter.say(self.describe())
        for change in self._changes:
            self.reporter.say(f"resumed: {change}")
        for warning in self.communicator.warnings:
            self.reporter.say(f"warning: {warning}")
        for advice in self.roster.advice():
            self.reporter.say(f"advice: {advice}")

    def _leave_together(self) -> None:
        """Wait for all ranks, as long as a stall is noticed: MPI's own end would wait for ever."""
        try:
            self.communicator.gather(None)
        except Exception as error:
            if self._recovery is None or not self._recovery.may_go_on(error):
                raise

    def _tell_timeline(self, *, at_end: bool) -> None:
        told = self._recording.write(at_end=at_end)
        if told is not None:
            self.reporter.say(told)

    def _train_epochs(self) -> None:
        recovery = ElasticRecovery(self, self._tensorboard) if self.parallel.elastic else None
        self._recovery = recovery
        # Saved before the first epoch, so that a run killed in it can be resumed too.
        saved = bool(self.history)
        while True:
            try:
                if not saved:
                    self.save()
                    saved = True
                if len(self.history) < self.settings.epochs and not self._out_of_patience():
                    self.history.append(train_and_test(self, len(self.history)))
                    self.reporter.end_epoch(self.history[-1], self.settings.epochs)
                    saved = False
                    if recovery is not None:
                        recovery.end_epoch()
                    self._tell_timeline(at_end=False)
                    continue
                report_data(self)
                # A rank that left would look like one that has died to those that recover.
                if recovery is None or self.communicator.agree(True):
                    return
            except Exception as error:
                if recovery is None or not recovery.may_go_on(error):
                    raise
            assert recovery is not None
            self._recording.drop()
            recovery.recover()
            saved = recovery.begun

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

    def _out_of_patience(self) -> bool:
        patience = self.settings.patience
        if patience is None or len(self.history) - best_epoch(self.history) < patience:
            return False
        self.reporter.say(
            f"stopped: the {self.reporter.part} accuracy was best after epoch "
            f"{best_epoch(self.history)}, {patience} epochs ago"
        )
        return True

    def describe(self) -> str:
        """Return what runs where, in words: of several ranks a line for each kind of host."""
        return describe_run(self)
