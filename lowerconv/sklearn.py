"""A classifier of images with the interface of scikit-learn, which is imported here alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError:
    raise ImportError(
        "lowerconv.sklearn needs scikit-learn 1.6 or later: pip install 'lowerconv[sklearn]'"
    ) from None

from lowerconv import nn
from lowerconv.nn.loss import softmax_cross_entropy
from lowerconv.nn.module import Module
from lowerconv.nn.step import Step

__all__ = ["ConvNetClassifier", "small_network"]

_ABSENT = object()  # where there are no labels to check


def small_network(image_shape: tuple[int, int, int], classes: int) -> Module:
    """Return a network of two convolutions for images of any size.

    Parameters
    ----------
    image_shape : (C, H, W)
    classes : int

    Returns
    -------
    Module
    """
    C, H, W = image_shape
    layers: list[Module] = []
    for filters in (16, 32):
        layers += [nn.Conv2d(C, filters, 3, padding=1), nn.ReLU()]
        C = filters
        if min(H, W) >= 4:
            layers.append(nn.MaxPool2d(2))
            H, W = H // 2, W // 2
    features = [nn.Flatten(), nn.Linear(C * H * W, 64), nn.ReLU(), nn.Linear(64, classes)]
    return nn.Sequential(*layers, *features)


class ConvNetClassifier(ClassifierMixin, BaseEstimator):
    """A convolutional network that learns classes of images.

    All samples given to `fit` are trained with: none are held back for validation.

    Parameters
    ----------
    network : callable, optional
        Given ``image_shape`` and the number of classes, returns a `lowerconv.nn.Module`;
        by default `small_network`.
    image_shape : (C, H, W), optional
        How rows of features are seen as images; by default ``X`` has images, (n, C, H, W) or
        (n, H, W), and rows are images of one row.
    epochs : int
        Of `fit`.
    batch_size : int
        Samples of a step.
    lr : float
        Learning rate of Adam.
    weight_decay : float
    random_state : int, RandomState or None
        Draws the weights and the order of samples.

    Attributes
    ----------
    classes_ : ndarray, (classes,)
        Labels, sorted.
    network_ : Module
    image_shape_ : (C, H, W)
    loss_curve_ : list of float
        Mean loss of each epoch.
    n_features_in_ : int

    Examples
    --------
    >>> from lowerconv.sklearn import ConvNetClassifier
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = ConvNetClassifier(image_shape=(1, 8, 8), epochs=5, random_state=0)
    >>> bool(model.fit(X[:1500] / 16, y[:1500]).score(X[1500:] / 16, y[1500:]) > 0.8)
    True
    """

    def __init__(
        self,
        network: Callable[[tuple[int, int, int], int], Module] | None = None,
        image_shape: tuple[int, int, int] | None = None,
        epochs: int = 20,
        batch_size: int = 32,
        lr: float = 2e-3,
        weight_decay: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    def fit(self, X: Any, y: Any) -> ConvNetClassifier:
        """Learn from all samples, beginning anew.

        Parameters
        ----------
        X : array-like, (n, C, H, W), (n, H, W) or (n, features)
        y : array-like, (n,)
            Labels of any kind.

        Returns
        -------
        ConvNetClassifier
            The classifier itself.
        """
        images, y = self._validated(X, y, reset=True)
        self._begin(images, np.unique(y))
        for _ in range(self.epochs):
            self._epoch(images, y)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> ConvNetClassifier:
        """Learn from some samples once, going on from what was learnt.

        Parameters
        ----------
        X, y : array-like
            As for `fit`.
        classes : array-like, optional
            All labels that will come; needed in the first call.

        Returns
        -------
        ConvNetClassifier
            The classifier itself.
        """
        first = not hasattr(self, "network_")
        if first and classes is None:
            raise ValueError("classes: got None in the first call of partial_fit, expected labels")
        images, y = self._validated(X, y, reset=first)
        if first:
            self._begin(images, np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes: got {classes!r}, expected {self.classes_!r} as before")
        self._epoch(images, y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, the same in whatever order the samples are.

        Parameters
        ----------
        X : array-like
            As for `fit`.

        Returns
        -------
        ndarray, (n, classes)
        """
        check_is_fitted(self, "network_")
        images = self._validated(X, _ABSENT, reset=False)[0]
        # The place in a batch changes how float32 is rounded: each image that there is gets a place
        # of its own, whatever the order of the samples.
        rows = images.reshape(len(images), -1)
        kinds = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
        _, first, which = np.unique(kinds, return_index=True, return_inverse=True)
        batches = [
            self.network_(images[first[i : i + self.batch_size]])
            for i in range(0, len(first), self.batch_size)
        ]
        scores = np.concatenate(batches).astype(np.float64)[which]
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """Return the label of the most probable class of each sample.

        Parameters
        ----------
        X : array-like
            As for `fit`.

        Returns
        -------
        ndarray, (n,)
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def _validated(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, Any]:
        """Return samples as images of float32, and labels."""
        options: dict[str, Any] = {"dtype": np.float64, "allow_nd": True, "reset": reset}
        if y is _ABSENT:
            X = validate_data(self, X, **options)
        elif y is None:
            raise ValueError("y: requires y to be passed, but the target y is None")
        else:
            X, y = validate_data(self, X, y, **options)
            check_classification_targets(y)
        if self.image_shape is not None:
            shape = tuple(self.image_shape)
        elif X.ndim == 2:
            shape = (1, 1, X.shape[1])
        else:
            shape = (1, *X.shape[1:]) if X.ndim == 3 else X.shape[1:]
        if len(shape) != 3 or int(np.prod(shape)) != int(np.prod(X.shape[1:])):
            raise ValueError(f"X: got shape {X.shape}, expected samples of image_shape {shape}")
        if not reset and hasattr(self, "image_shape_") and shape != self.image_shape_:
            raise ValueError(f"X: got images {shape}, expected {self.image_shape_} as in fit")
        return np.ascontiguousarray(X.reshape(-1, *shape), np.float32), y

    def _begin(self, images: np.ndarray, classes: np.ndarray) -> None:
        """Make the network, and forget what was learnt."""
        if len(classes) < 2:
            raise ValueError(f"y: got one class, {classes[0]!r}, expected at least two classes")
        self.classes_, self.image_shape_ = classes, images.shape[1:]
        self._random = check_random_state(self.random_state)
        make = self.network or small_network
        self.network_ = make(self.image_shape_, len(classes))
        self.network_.initialize(np.random.default_rng(self._random.randint(2**31)))
        self.optimizer_ = nn.Adam(self.network_, self.lr, weight_decay=self.weight_decay)
        self.loss_curve_: list[float] = []
        self._steps = 0

    def _epoch(self, images: np.ndarray, y: np.ndarray) -> None:
        """Train with each sample once."""
        labels = np.searchsorted(self.classes_, y)
        labels = np.minimum(labels, len(self.classes_) - 1)
        if not np.array_equal(self.classes_[labels], y):
            raise ValueError(f"y: got labels that are not in classes {self.classes_!r}")
        order = self._random.permutation(len(images))
        total, seed = 0.0, int(self._random.randint(2**31))
        for begin in range(0, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            step = Step(training=True, seed=seed, number=self._steps)
            scores = self.network_.run(images[chosen], step)
            loss = softmax_cross_entropy(scores, labels[chosen])
            self.network_.backward(loss.gradient)
            self.optimizer_.step()
            total += loss.loss
            self._steps += 1
        self.loss_curve_.append(total / len(order))
