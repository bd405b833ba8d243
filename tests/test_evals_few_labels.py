import functools

import numpy as np
import pytest
from probe_reference import clusters
from sklearn.linear_model import LogisticRegression

from iecl_jax.evals.measures import few_labels

pytestmark = pytest.mark.quick

LABELS = np.random.default_rng(0).integers(-1, 4, 200)


def test_few_label_accuracy_is_the_mean_over_the_draws():
    (x, y), (test_x, test_y) = clusters(120, width=9), clusters(200, width=9, seed=1)
    x[:, 0], test_x[:, 0] = 0.1, 7.0  # a dead feature has no deviation
    y[:7], test_y[:9] = -1, -1
    got = few_labels.few_label_accuracy(
        x, y, test_x, test_y, labels_per_class=5, seed=2, num_draws=3
    )
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    std[0] = 1.0
    expected = []
    for draw in range(3):
        rows = few_labels.draw_labels(y, labels_per_class=5, seed=2, draw=draw)
        model = LogisticRegression(tol=1e-6, max_iter=1000).fit((x[rows] - mean) / std, y[rows])
        expected.append(model.score(((test_x - mean) / std)[9:], test_y[9:]))
    np.testing.assert_allclose(got, [np.mean(expected), np.std(expected, ddof=1)], atol=0.006)
    assert 0.4 < got[0] < 1
    assert got[1] > 0


def test_few_label_single_draw_and_errors():
    (x, y), test = clusters(40), clusters(50, seed=1)
    few = functools.partial(few_labels.few_label_accuracy, seed=0)
    first, no_deviation = few(x, y, *test, labels_per_class=2, num_draws=1)
    assert no_deviation == 0.0
    mean, deviation = few(x, y, *test, labels_per_class=2, num_draws=2)
    assert mean != first
    assert deviation == pytest.approx(abs(mean - first) * 2**0.5)
    with pytest.raises(ValueError, match="fewer than labels_per_class=30: lower"):
        few(x, y, *test, labels_per_class=30)
    with pytest.raises(ValueError, match="fewer than two classes"):
        few(x, np.zeros(40, int), *test, labels_per_class=1)
    with pytest.raises(ValueError, match="no test example is labelled"):
        few(x, y, x, np.full(40, -1), labels_per_class=1)
    with pytest.raises(ValueError, match="num_draws is 0"):
        few(x, y, *test, labels_per_class=1, num_draws=0)


def test_few_label_on_more_features_than_examples_converges():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(60, 400)) * np.geomspace(1e-3, 1e3, 400)).astype(np.float32)
    y = np.arange(60) % 3
    mean, _ = few_labels.few_label_accuracy(x, y, x, y, labels_per_class=20, seed=0, num_draws=1)
    assert mean == 1.0


def test_draw_is_stratified_reproducible_and_varied():
    rows = few_labels.draw_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    assert len(set(rows)) == 24
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [6, 6, 6, 6])
    again = few_labels.draw_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    np.testing.assert_array_equal(rows, again)
    for seed, draw in ((1, 1), (2, 0)):
        other = few_labels.draw_labels(LABELS, labels_per_class=6, seed=seed, draw=draw)
        assert not np.array_equal(rows, other)


def test_draw_reaches_every_example_evenly():
    labels = np.repeat([0, 1], [4, 10])
    hits = np.zeros(14)
    for draw in range(400):
        hits[few_labels.draw_labels(labels, labels_per_class=2, seed=0, draw=draw)] += 1
    expected = np.where(labels == 0, 200, 80)
    assert (np.abs(hits - expected) < 50).all()


def test_draw_errors():
    labels = np.array([0, 0, 0, 3, 3, -1, -1, -1])
    with pytest.raises(ValueError, match="class 3 has 2 labelled examples, fewer than"):
        few_labels.draw_labels(labels, labels_per_class=3, seed=0, draw=0)
    with pytest.raises(ValueError, match="labels_per_class is 0"):
        few_labels.draw_labels(labels, labels_per_class=0, seed=0, draw=0)
    with pytest.raises(ValueError, match="no example is labelled"):
        few_labels.draw_labels(labels[5:], labels_per_class=1, seed=0, draw=0)
