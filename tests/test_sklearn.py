"""The classifier with scikit-learn's interface, in what scikit-learn does with classifiers."""

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator

from lowerconv import nn
from lowerconv.sklearn import ConvNetClassifier


def digits(count=600):
    X, y = load_digits(return_X_y=True)
    return X[:count] / 16, y[:count]


def test_estimator_checks():
    for result in check_estimator(ConvNetClassifier(epochs=15, random_state=0), on_fail=None):
        assert result["status"] in ("passed", "skipped"), (
            result["check_name"],
            result["exception"],
        )


def test_digits_are_learnt():
    X, y = digits(1000)
    model = ConvNetClassifier(image_shape=(1, 8, 8), epochs=10, random_state=1)
    model.fit(X[:800], y[:800])
    assert model.score(X[800:], y[800:]) > 0.9
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_images_and_rows_are_the_same():
    X, y = digits(100)
    rows = ConvNetClassifier(image_shape=(1, 8, 8), epochs=2, random_state=3).fit(X, y)
    images = ConvNetClassifier(epochs=2, random_state=3).fit(X.reshape(-1, 1, 8, 8), y)
    planes = ConvNetClassifier(epochs=2, random_state=3).fit(X.reshape(-1, 8, 8), y)
    np.testing.assert_array_equal(
        rows.predict_proba(X), images.predict_proba(X.reshape(-1, 1, 8, 8))
    )
    np.testing.assert_array_equal(rows.predict_proba(X), planes.predict_proba(X.reshape(-1, 8, 8)))


def test_the_order_of_samples_changes_no_bit():
    X, y = digits(100)
    model = ConvNetClassifier(image_shape=(1, 8, 8), epochs=1, random_state=0).fit(X, y)
    order = np.random.default_rng(0).permutation(100) % 60  # some twice
    np.testing.assert_array_equal(
        model.predict_proba(X[order]), model.predict_proba(X[order][::-1])[::-1]
    )


@pytest.mark.parametrize(
    "labels", [lambda y: y - 3, lambda y: y.astype("U"), lambda y: y.astype(np.uint8)]
)
def test_labels_of_any_kind(labels):
    X, y = digits(100)
    model = ConvNetClassifier(image_shape=(1, 8, 8), epochs=1, random_state=0).fit(X, labels(y))
    assert set(model.predict(X)) <= set(labels(y))


def test_a_grid_in_a_pipeline():
    X, y = digits(120)
    model = make_pipeline(
        MinMaxScaler(), ConvNetClassifier(image_shape=(1, 8, 8), epochs=2, random_state=0)
    )
    search = GridSearchCV(model, {"convnetclassifier__lr": [1e-4, 5e-3]}, cv=2).fit(X, y)
    assert search.best_params_["convnetclassifier__lr"] == 5e-3


def test_a_clone_has_learnt_nothing():
    X, y = digits(50)
    copy = clone(ConvNetClassifier(image_shape=(1, 8, 8), epochs=1).fit(X, y))
    with pytest.raises(Exception, match="not fitted"):
        copy.predict(X)


def test_partial_fit_goes_on():
    X, y = digits(200)
    model = ConvNetClassifier(image_shape=(1, 8, 8), random_state=0)
    with pytest.raises(ValueError, match="classes"):
        model.partial_fit(X, y)
    for _ in range(3):
        model.partial_fit(X, y, classes=range(10))
    assert len(model.loss_curve_) == 3
    assert model.loss_curve_[2] < model.loss_curve_[0]
    with pytest.raises(ValueError, match="labels that are not in classes"):
        model.partial_fit(X[:1], [77])


def test_a_network_of_ones_own():
    def network(image_shape, classes):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, classes))

    X, y = digits(100)
    model = ConvNetClassifier(network, (1, 8, 8), epochs=1, random_state=0).fit(X, y)
    assert model.predict_proba(X).shape == (100, 10)


def test_images_of_another_shape_are_refused():
    X, y = digits(20)
    with pytest.raises(ValueError, match="image_shape"):
        ConvNetClassifier(image_shape=(1, 7, 7)).fit(X, y)
