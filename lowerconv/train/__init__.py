"""Training: a run and its settings, checkpoints, metrics, and networks that have been trained.

The command line's ``lowerconv train --model lenet --epochs 1 --out DIR`` in Python, and what
``lowerconv evaluate`` and ``lowerconv predict`` do with the result:

>>> import tempfile
>>> from lowerconv.data import load
>>> from lowerconv.train import Classifier, Trainer
>>> out = tempfile.TemporaryDirectory()
>>> history = Trainer("lenet", "fashion-mnist", out.name, epochs=1).fit()  # doctest: +ELLIPSIS
lenet, 431,080 parameters, on fashion-mnist: 8,500 training and 1,500 test images; ...
epoch 1/1  loss ...
>>> history[-1].test_accuracy > 0.5
True

>>> trained = Classifier(f"{out.name}/best.safetensors")
>>> _, test = load("fashion-mnist")
>>> loss, accuracy = trained.evaluate(test)
>>> accuracy == history[-1].test_accuracy
True
>>> trained.inputs.classes[trained.probabilities(test.images[:1]).argmax()]
'Dress'
>>> out.cleanup()

All settings are those of :class:`Settings`; a network of layers of your own, and data sets of
your own, may stand for the names.
"""

from lowerconv.nn.divergence import DivergenceError
from lowerconv.train.checkpoint import CheckpointError
from lowerconv.train.classifier import Classifier
from lowerconv.train.settings import Settings
from lowerconv.train.trainer import Trainer

__all__ = ["CheckpointError", "Classifier", "DivergenceError", "Settings", "Trainer"]
