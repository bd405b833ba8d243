from typing import Any

import numpy as np
import pytest
from probe_reference import clusters, numpy_sgd
from sklearn.linear_model import LogisticRegression

from iecl_jax.evals.measures import linear_probe, probe_grid

SGD: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-2}
GRID: dict[str, Any] = {"num_classes": 3, "num_epochs": 2, "batch_size": 8, **SGD, "seed": 3}


def test_grid_of_full_batches_isnumpy_sgd():
    features, labels = clusters(20)
    rates = [0.0, 0.1, 0.5, 2.0]
    settings = {**GRID, "batch_size": 20, "num_epochs": 5}
    grid = probe_grid.train_grid(features, labels, learning_rates=rates, **settings)
    start = {name: leaf[0] for name, leaf in grid.items()}  # where a rate of 0 stays
    for i, rate in enumerate(rates):
        kernel, bias, _ = numpy_sgd(start, [(features, labels)] * 5, rate, **SGD)
        np.testing.assert_allclose(grid["kernel"][i], kernel, atol=2e-5)
        np.testing.assert_allclose(grid["bias"][i], bias, atol=2e-5)


def test_grid_members_do_not_depend_on_each_other():
    features, labels = clusters(27)
    grid = probe_grid.train_grid(features, labels, learning_rates=[0.1, 1.0], **GRID)
    swapped = probe_grid.train_grid(features, labels, learning_rates=[1.0, 5.0], **GRID)
    np.testing.assert_allclose(grid["kernel"][1], swapped["kernel"][0], atol=1e-6)
    other = probe_grid.train_grid(
        features, labels, learning_rates=[0.1, 1.0], **{**GRID, "seed": 4}
    )
    assert np.abs(other["kernel"] - grid["kernel"]).max() > 1e-2


@pytest.mark.parametrize("num_epochs, num_seen", [(1, 8), (10, 11)])
def test_epochs_draw_without_replacement_and_anew(num_epochs, num_seen):
    """Example i alone has feature i, so row i of the kernel moves when i is seen."""
    settings = {**GRID, "num_epochs": num_epochs, "batch_size": 4, "weight_decay": 0.0}
    features, labels = np.eye(12, dtype=np.float32)[:11], np.arange(11) % 3
    kernel = probe_grid.train_grid(features, labels, learning_rates=[0.0, 1.0], **settings)[
        "kernel"
    ]
    moved = np.any(kernel[1] != kernel[0], axis=1)
    assert moved.sum() == num_seen
    assert not moved[11]


def test_grid_reaches_the_convex_optimum():
    features, labels = clusters(240, seed=1)
    test_features, test_labels = clusters(2000, seed=2)
    decay = 0.01
    grid = probe_grid.train_grid(
        features,
        labels,
        learning_rates=[0.5],
        num_classes=3,
        num_epochs=400,
        batch_size=240,
        momentum=0.9,
        weight_decay=decay,
        seed=0,
    )
    # Mean loss + decay/2 ||w||^2 is scikit-learn's C * sum of losses + ||w||^2 / 2, rescaled.
    optimum = LogisticRegression(C=1 / (decay * 240), tol=1e-8, max_iter=1000)
    optimum.fit(features.astype(np.float64), labels)
    accuracy = linear_probe.grid_accuracy(grid, test_features, test_labels)[0]
    assert 0.5 < accuracy < 0.95
    assert accuracy == pytest.approx(optimum.score(test_features, test_labels), abs=0.005)
    np.testing.assert_allclose(grid["kernel"][0].T, optimum.coef_, atol=1e-3)


def test_unlabelled_examples_do_not_train():
    features, labels = clusters(27)
    labels[::2] = -1
    noisy = features.copy()
    noisy[::2] = 100.0
    one, two = (
        probe_grid.train_grid(x, labels, learning_rates=[0.1, 1.0], **GRID)
        for x in (features, noisy)
    )
    np.testing.assert_allclose(one["kernel"], two["kernel"], atol=1e-6)


CHOOSE: dict[str, Any] = {
    "num_epochs": 10,
    "batch_size": 32,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "seed": 0,
}


def test_choose_and_test():
    train, test = clusters(150, 7, seed=1, spread=0.8), clusters(300, 7, seed=2, spread=0.8)
    train[1][:10] = -1
    rates = [1e-6, 0.3, 1e4]
    got = probe_grid.choose_and_test(
        *train, *test, learning_rates=rates, num_classes=7, **CHOOSE, holdout=0.2
    )
    kept, held = probe_grid.split_holdout(train[1], share=0.2, seed=0)
    grid = probe_grid.train_grid(
        train[0][kept], train[1][kept], learning_rates=rates, num_classes=7, **CHOOSE
    )
    held_out = linear_probe.grid_accuracy(grid, train[0][held], train[1][held])
    assert got["best_learning_rate"] == 0.3
    assert got["holdout_accuracy"] == dict(zip(rates, held_out.tolist(), strict=True))
    known = train[1] >= 0
    retrained = probe_grid.train_grid(
        train[0][known], train[1][known], learning_rates=[0.3], num_classes=7, **CHOOSE
    )
    assert got["test_top1"] == linear_probe.grid_accuracy(retrained, *test)[0] > 0.4
    assert (
        got["test_top5"] == linear_probe.grid_accuracy(retrained, *test, k=5)[0] > got["test_top1"]
    )


def test_choice_does_not_see_the_test_set():
    (x, labels), (test_x, test_labels) = clusters(60), clusters(40, seed=1)
    one, two = (
        probe_grid.choose_and_test(
            x, labels, test_x, y, learning_rates=[0.01, 0.3], num_classes=3, **CHOOSE
        )
        for y in (test_labels, (test_labels + 1) % 3)
    )
    assert "test_top5" not in one
    assert one["test_top1"] != two["test_top1"]
    assert one["holdout_accuracy"] == two["holdout_accuracy"]


def test_first_of_equal_rates_is_chosen():
    train, test = clusters(60), clusters(40, seed=1)
    got = probe_grid.choose_and_test(
        *train, *test, learning_rates=[0.3, 0.3000001], num_classes=3, **CHOOSE
    )
    assert got["best_learning_rate"] == 0.3


def test_grid_errors():
    features, labels = clusters(20)
    with pytest.raises(ValueError, match="the features are empty"):
        probe_grid.train_grid(features[:0], labels[:0], learning_rates=[0.1], **GRID)
    with pytest.raises(ValueError, match="label 2 needs a num_classes above 2"):
        probe_grid.train_grid(features, labels, learning_rates=[0.1], **{**GRID, "num_classes": 2})
    with pytest.raises(ValueError, match="total_steps is 0"):
        probe_grid.train_grid(features, labels, learning_rates=[0.1], **{**GRID, "num_epochs": 0})
    with pytest.raises(ValueError, match="learning_rates is empty"):
        probe_grid.choose_and_test(
            features, labels, features, labels, learning_rates=[], num_classes=3, **CHOOSE
        )


LABELS = np.random.default_rng(0).integers(-1, 4, 200)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_split_holdout_is_a_stratified_partition(share):
    kept, held = probe_grid.split_holdout(LABELS, share=share, seed=0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([kept, held])), np.flatnonzero(LABELS >= 0)
    )
    counts = np.bincount(LABELS[LABELS >= 0])
    expected = np.clip(np.round(share * counts), 1, counts - 1)
    np.testing.assert_array_equal(np.bincount(LABELS[held]), expected)
    again = probe_grid.split_holdout(LABELS, share=share, seed=0)[1]
    np.testing.assert_array_equal(held, again)
    assert not np.array_equal(kept, probe_grid.split_holdout(LABELS, share=share, seed=1)[0])


def test_split_holdout_of_single_examples():
    kept, held = probe_grid.split_holdout(np.array([0, 1, 1, -1]), share=0.5, seed=0)
    assert 0 in kept
    assert len(held) == 1
    with pytest.raises(ValueError, match="no class has two labelled"):
        probe_grid.split_holdout(np.array([0, 1, -1, -1]), share=0.5, seed=0)
    with pytest.raises(ValueError, match="no class has two labelled"):
        probe_grid.split_holdout(np.full(4, -1), share=0.5, seed=0)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        probe_grid.split_holdout(LABELS, share=1.0, seed=0)
