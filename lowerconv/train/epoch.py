"""An epoch of a run: training, the same statistics for all ranks, and tests."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lowerconv.nn.divergence import check_weights
from lowerconv.parallel.comm.agreement import check_weights_agree
from lowerconv.train.loop import evaluate, train_epoch, update_sizes
from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.pace import Pace
from lowerconv.train.schedule import learning_rate

if TYPE_CHECKING:
    from lowerconv.train.trainer import Trainer


def train_and_test(run: Trainer, epoch: int) -> EpochMetrics:
    """Train an epoch, counted from 0, and test the network."""
    images = len(run._train.dataset)
    run.reporter.start_epoch(epoch + 1, run.settings.epochs, images)
    recovery = run._recovery
    tally = None if recovery is None else recovery.begin(epoch)
    update = 0 if tally is None else tally.update
    before = update * run.settings.accumulate * run.settings.batch  # by ranks since died
    pace = Pace(run.reporter, run._train, before, warming_up=not run.losses)
    sizes = update_sizes(run._train, run.settings.accumulate)
    losses, all_right = train_epoch(
        run.strategy,
        run._train,
        epoch,
        run.settings.seed,
        lambda update: learning_rate(run.settings, update, len(sizes)),
        pace.after_batch,
        accumulate=run.settings.accumulate,
        label_smoothing=run.settings.label_smoothing,
        average=run.average,
        tally=tally,
        before_update=None if recovery is None else recovery.keep,
        check_every=run.parallel.checked_every,
        timeline=run._recording.timeline,
    )
    speed = pace.images_per_second()
    if epoch + 1 < run.settings.epochs:  # while the network is tested
        run._train.prefetch(run.settings.seed, epoch + 1)
    check_weights_agree(run.communicator, run.strategy.replicated())
    average_buffers(run)
    check_weights(run.strategy.network, epoch + 1)
    run.losses.extend(losses)
    test = partial(evaluate, run.strategy.infer, run._test, run.communicator, run.strategy.copies)
    test_loss, test_accuracy = test()
    ema_loss, ema_accuracy = None, None
    if run.average is not None:
        ema_loss, ema_accuracy = run.average.in_place(test)
    return EpochMetrics(
        epoch=epoch + 1,
        train_loss=float(losses @ sizes / images),
        train_accuracy=all_right / images,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        images_per_second=speed,
        seconds=pace.seconds(),
        learning_rate=run.optimizer.lr,
        ema_loss=ema_loss,
        ema_accuracy=ema_accuracy,
        **run.strategy.metrics(),
    )


def average_buffers(run: Trainer) -> None:
    """Give all ranks the same statistics: the means of those that each has seen."""
    arrays = list(run.strategy.differing_buffers().values())
    if run.average is not None and not run.strategy.alike:
        arrays += run.average.values.values()
    for array in arrays:
        run.communicator.sum_array(array)
        array /= run.communicator.ranks
