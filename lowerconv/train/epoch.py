"""An epoch of a run: training, then tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lowerconv.train.callback import Callback
from lowerconv.train.loop import evaluate, train_epoch
from lowerconv.train.metrics import EpochMetrics
from lowerconv.train.pace import Pace
from lowerconv.train.run_state import RunState
from lowerconv.train.schedule import learning_rate


def train_and_test(run: RunState, epoch: int, callbacks: Sequence[Callback]) -> EpochMetrics:
    """Train an epoch, counted from 0, and test the network."""
    settings, strategy, loader = run.settings, run.strategy, run.train_loader
    images, sizes = len(loader.dataset), run.update_sizes()
    run.reporter.start_epoch(epoch + 1, settings.epochs, images)
    counts = run.begin_epoch(epoch)
    before = counts.update * settings.accumulate * settings.batch  # by ranks since died
    pace = Pace(run.reporter, loader, before, warming_up=not run.losses)
    losses, all_right = train_epoch(
        strategy,
        loader,
        epoch,
        settings.seed,
        lambda update: learning_rate(settings, update, len(sizes)),
        (pace, *callbacks),
        accumulate=settings.accumulate,
        label_smoothing=settings.label_smoothing,
        counts=counts,
    )
    speed = pace.images_per_second()
    if epoch + 1 < settings.epochs:  # while the network is tested
        loader.prefetch(settings.seed, epoch + 1)
    for callback in callbacks:
        callback.on_train_epoch_end(epoch)
    run.losses.extend(losses)
    test = partial(
        evaluate, strategy.infer, run.test_loader, run.communicator, strategy.loss_copies
    )
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
        learning_rate=strategy.optimizer.lr,
        ema_loss=ema_loss,
        ema_accuracy=ema_accuracy,
        **strategy.metrics(),
    )
