import numpy as np
import pytest

from iecl_jax.evals import draws

LABELS = np.random.default_rng(0).integers(-1, 4, 200)


def test_few_labels_is_stratified_reproducible_and_varied():
    rows = draws.few_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    assert len(set(rows)) == 24
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [6, 6, 6, 6])
    again = draws.few_labels(LABELS, labels_per_class=6, seed=1, draw=0)
    np.testing.assert_array_equal(rows, again)
    for seed, draw in ((1, 1), (2, 0)):
        other = draws.few_labels(LABELS, labels_per_class=6, seed=seed, draw=draw)
        assert not np.array_equal(rows, other)


def test_few_labels_reaches_every_example_evenly():
    labels = np.repeat([0, 1], [4, 10])
    hits = np.zeros(14)
    for draw in range(400):
        hits[draws.few_labels(labels, labels_per_class=2, seed=0, draw=draw)] += 1
    expected = np.where(labels == 0, 200, 80)
    assert (np.abs(hits - expected) < 50).all()


def test_few_labels_errors():
    labels = np.array([0, 0, 0, 3, 3, -1, -1, -1])
    with pytest.raises(ValueError, match="class 3 has 2 labelled examples, fewer than"):
        draws.few_labels(labels, labels_per_class=3, seed=0, draw=0)
    with pytest.raises(ValueError, match="labels_per_class is 0"):
        draws.few_labels(labels, labels_per_class=0, seed=0, draw=0)
    with pytest.raises(ValueError, match="no example is labelled"):
        draws.few_labels(labels[5:], labels_per_class=1, seed=0, draw=0)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.99])
def test_split_holdout_is_a_stratified_partition(share):
    kept, held = draws.split_holdout(LABELS, share=share, seed=0)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([kept, held])), np.flatnonzero(LABELS >= 0)
    )
    counts = np.bincount(LABELS[LABELS >= 0])
    expected = np.clip(np.round(share * counts), 1, counts - 1)
    np.testing.assert_array_equal(np.bincount(LABELS[held]), expected)
    again = draws.split_holdout(LABELS, share=share, seed=0)[1]
    np.testing.assert_array_equal(held, again)
    assert not np.array_equal(kept, draws.split_holdout(LABELS, share=share, seed=1)[0])


def test_split_holdout_of_single_examples():
    kept, held = draws.split_holdout(np.array([0, 1, 1, -1]), share=0.5, seed=0)
    assert 0 in kept
    assert len(held) == 1
    with pytest.raises(ValueError, match="no class has two labelled"):
        draws.split_holdout(np.array([0, 1, -1, -1]), share=0.5, seed=0)
    with pytest.raises(ValueError, match=r"share is 1\.0"):
        draws.split_holdout(LABELS, share=1.0, seed=0)
