"""A training run: a network, its data, and all that is kept of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

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
from lowerconv.parallel.comm.communicator import Communicator
from lowerconv.parallel.comm.rank_map import RankMap
from lowerconv.parallel.comm.together import together
from lowerconv.parallel.options import ParallelOptions
from lowerconv.parallel.strategies import STRATEGIES
from lowerconv.runtime.threads import get_num_threads
from lowerconv.train.callback import (
    AgreementCheck,
    Averaging,
    Callback,
    DivergenceCheck,
    StatusNotes,
)
from lowerconv.train.checkpointer import Checkpointer
from lowerconv.train.describe import describe_run, report_data
from lowerconv.train.directory import last_path, new_path
from lowerconv.train.elastic_recovery import ElasticRecovery
from lowerconv.train.ema import WeightAverage
from lowerconv.train.epoch import train_and_test
from lowerconv.train.initial import InitialWeights
from lowerconv.train.metrics import EpochMetrics, best_epoch
from lowerconv.train.progress import ConsoleReporter, Reporter, announce_compilation
from lowerconv.train.recording import Recording
from lowerconv.train.run_state import RunState
from lowerconv.train.setup import Setup, join, make_optimizer, names, read
from lowerconv.train.tensorboard import require_tensorboard

OUT = Place("a directory")


@not_copied("make another from its arguments; `copy.deepcopy(trainer.network)` copies its weights")
class Trainer:
    """A run: network, data, optimizer, what it has measured, and where it is kept.

    All ranks make one together, and it fails on all of them or on none.

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
    init_from : path, optional
        A checkpoint of the same network, such as ``best.safetensors``: the weights to begin with.
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
        init_from: str | Path | None = None,
        tensorboard: bool = False,
        parallel: str | ParallelOptions = "data",
        communicator: Communicator | None = None,
        reporter: Reporter | None = None,
        workers: int | None = None,
        cpus: Collection[int] | None = None,
        **settings: Any,
    ) -> None:
        self.communicator = join() if communicator is None else communicator
        self._checkpointer = Checkpointer(tensorboard)
        # In each step all ranks fail or none: the next one is for all of them.
        try:
            places = out, resume, init_from
            initial = together(self.communicator, lambda: self._load(model, data, *places))
            setup = self._read(model, data, parallel, settings, initial)
            together(self.communicator, lambda: self._build(setup, reporter, workers, cpus))
            try:
                together(self.communicator, lambda: self._open(out, tensorboard))
            except BaseException:
                self.strategy.close()
                raise
        except BaseException:
            if self._checkpointer.directory is not None:
                self._checkpointer.directory.close()
            raise

    def _load(
        self,
        model: str | Module,
        data: str | tuple[Source, Source | None],
        out: str | Path | None,
        resume: bool,
        init_from: str | Path | None,
    ) -> InitialWeights | None:
        """Read checkpoints to go on from, on rank 0: others might not see its file system."""
        if out is not None:
            checked("out", OUT, out)
        if self.communicator.rank:
            return None
        if resume:
            self._checkpointer.load(last_path(*names(model, data)) if out is None else Path(out))
        return None if init_from is None else InitialWeights.read(init_from, resume)

    def _read(
        self,
        model: str | Module,
        data: str | tuple[Source, Source | None],
        parallel: str | ParallelOptions,
        given: dict[str, Any],
        initial: InitialWeights | None,
    ) -> Setup:
        """Read all that a run is made of, and compare it with that of the other ranks."""
        saved = self._checkpointer.saved
        before = self.communicator.broadcast(saved.state["settings"] if saved else None)
        what = model, data, parallel, given, before, self.communicator.broadcast(initial)
        with warnings.catch_warnings():
            if self.communicator.rank:  # all read the same data: what is odd about it is told once
                warnings.simplefilter("ignore", DataWarning)
            setup = together(self.communicator, lambda: read(*what))
        check_facts_agree(self.communicator, together(self.communicator, setup.facts))
        self._rank_map = RankMap.gather(self.communicator, get_num_threads())
        return setup

    def _build(
        self,
        setup: Setup,
        reporter: Reporter | None,
        workers: int | None,
        cpus: Collection[int] | None,
    ) -> None:
        """Make what trains; writes nothing."""
        self._setup = setup
        self.settings, self.parallel = setup.settings, setup.parallel
        self.network, self.inputs = setup.network, setup.inputs
        self.communicator.set_timeout(self.parallel.stall_timeout)
        if self.parallel.elastic:
            self.communicator.check_elastic()
        self.strategy = STRATEGIES[self.parallel.strategy](
            self.network,
            partial(make_optimizer, settings=self.settings),
            self.communicator,
            self.parallel,
            setup.train_set.image_shape,
        )
        ema = self.settings.ema
        self.average = None if ema is None else WeightAverage(self.strategy.network, ema)
        augment = Augment.parse(self.settings.augment) if self.settings.augment else None
        train_loader, test_loader = (
            Loader(
                source,
                self.inputs.normalizer(),
                self.settings.batch,
                *self.strategy.loader_share,
                augment=changes,
                workers=workers,
                cpus=cpus,
            )
            for source, changes in ((setup.train_set, augment), (setup.test_set, None))
        )
        if reporter is None:
            reporter = Reporter() if self.communicator.rank else ConsoleReporter(PlainConsole())
        reporter.part = setup.part
        self.state = RunState(
            self.settings, self.strategy, train_loader, test_loader, reporter, self.average
        )
        self.history, self.losses = self.state.history, self.state.losses
        self._recording = Recording(self.parallel, self.state, self._title)

    def _open(self, out: str | Path | None, tensorboard: bool) -> None:
        """Make the directory, or take what it has; rank 0's."""
        if self.communicator.rank:
            return
        if tensorboard:
            require_tensorboard()
        checkpointer, run = self._checkpointer, (self.settings.model, self.settings.data)
        if checkpointer.saved is not None:
            checkpointer.check(self._setup, self.state)
        else:
            checkpointer.begin(new_path(*run) if out is None else Path(out))
        checkpointer.record(self.state)

    @property
    def _title(self) -> str:
        return f"{self.settings.model} on {self.settings.data}"

    @property
    def out(self) -> Path:
        """The directory of the run, on rank 0."""
        directory = self._checkpointer.directory
        return directory.path if directory is not None else Path()

    @property
    def reporter(self) -> Reporter:
        """Who tells how the run goes."""
        return self.state.reporter

    @reporter.setter
    def reporter(self, reporter: Reporter) -> None:
        self.state.reporter = reporter

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; of several that a strategy may have, the first."""
        return self.strategy.optimizer

    def save(self) -> None:
        """Write the metrics and the checkpoints, on rank 0; all ranks call it."""
        self._checkpointer.save(self._setup, self.state)

    def fit(self) -> list[EpochMetrics]:
        """Train until all epochs are done, those of the checkpoint included.

        Interrupted by Ctrl-C, the network has the weights of the midst of an epoch; the checkpoints
        are whole, and a trainer with ``resume=True`` goes on from the last one.

        Returns
        -------
        list of EpochMetrics
            One for each epoch since the first.

        Raises
        ------
        DivergenceError
            A loss or a weight is not finite; the checkpoints are of epochs before.
        """
        closers: list[Callable[[], object]] = [
            self.strategy.close,
            self.state.train_loader.close,
            self.state.test_loader.close,
            lambda: self.reporter.close(),  # another one, where this rank speaks for a dead one
        ]
        directory = self._checkpointer.directory
        if directory is not None:
            closers.append(directory.close)
        try:
            self._checkpointer.restore(self.state)
            self.strategy.start()
            self._recording.start(self.strategy)
            for module in self.strategy.running:
                closers.insert(0, self.communicator.status.observe(module).remove)
            self._tell_plan()
            callbacks = [
                AgreementCheck(self.strategy, self.parallel.checked_every),
                Averaging(self.strategy, self.average),
                DivergenceCheck(self.strategy),
                StatusNotes(self.communicator.status),
                self._recording,
            ]
            with announce_compilation(self.reporter):
                self._train_epochs(callbacks)
            self.strategy.write_back()
            for callback in callbacks:
                callback.on_fit_end()
            for line in self.strategy.report():
                self.reporter.say(line)
        finally:
            try:
                close_all(closers)
            except KeyboardInterrupt:
                close_all(closers)
                raise
        if self._checkpointer.directory is not None:
            with self.communicator.status.drawing():
                self._checkpointer.directory.draw(self.history, self._title)
        self._leave_together()
        return self.history

    def _tell_plan(self) -> None:
        self.reporter.say(self.describe())
        for kind, lines in (
            ("resumed", self._checkpointer.changes),
            ("warning", self.communicator.warnings),
            ("advice", self._rank_map.advice()),
        ):
            for line in lines:
                self.reporter.say(f"{kind}: {line}")

    def _leave_together(self) -> None:
        """Wait for all ranks, as long as a stall is noticed: MPI's own end would wait for ever."""
        try:
            self.communicator.gather(None)
        except Exception as error:
            if not (self.parallel.elastic and self.communicator.has_lost_ranks(error)):
                raise

    def _train_epochs(self, callbacks: list[Callback]) -> None:
        """Train until all epochs are done, going on where ranks die and the run is elastic."""
        self.state.counts = None
        recovery: ElasticRecovery | None = None
        if self.parallel.elastic:
            recovery = ElasticRecovery(self.state, self._checkpointer)
            callbacks.insert(-1, recovery)
        # Saved before the first epoch, so that a run killed in it can be resumed too.
        saved = bool(self.history)
        while True:
            try:
                if not saved:
                    self.save()
                    saved = True
                if len(self.history) < self.settings.epochs and not self._out_of_patience():
                    self.history.append(train_and_test(self.state, len(self.history), callbacks))
                    self.reporter.end_epoch(self.history[-1], self.settings.epochs)
                    saved = False
                    for callback in callbacks:
                        callback.on_epoch_end()
                    continue
                report_data(self.state)
                # A rank that left would look like one that has died to those that recover.
                if recovery is None or self.communicator.agree(True):
                    return
            except Exception as error:
                if recovery is None or not self.communicator.has_lost_ranks(error):
                    raise
            assert recovery is not None
            self._recording.drop()
            recovery.recover()
            saved = recovery.begun

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
        """Return what runs on which CPUs, in words: with several ranks a line per kind of host."""
        parameters = sum(p.data.size for p in self.network.parameters().values())
        return describe_run(self.state, parameters, self._rank_map)
