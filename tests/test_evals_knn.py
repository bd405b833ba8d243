from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from iecl_jax.evals.measures import knn

pytestmark = pytest.mark.quick

SETTINGS: dict[str, Any] = {"k": 7, "temperature": 0.1, "num_classes": 4}


def _data(num_bank=90, num_queries=23, width=6, seed=0):
    rng = np.random.default_rng(seed)
    bank = rng.normal(size=(num_bank, width)).astype(np.float32) * 3
    queries = rng.normal(size=(num_queries, width)).astype(np.float32) * 5
    return bank, rng.integers(0, 4, num_bank), queries


def _reference(bank, labels, queries, *, k, temperature, num_classes):
    bank, queries = bank.astype(np.float64), queries.astype(np.float64)
    predicted = []
    for query in queries:
        cosines = [row @ query / np.linalg.norm(row) / np.linalg.norm(query) for row in bank]
        near = sorted(
            (i for i in range(len(bank)) if labels[i] >= 0), key=lambda i: (-cosines[i], i)
        )
        score = np.zeros(num_classes)
        for i in near[:k]:
            score[labels[i]] += np.exp(cosines[i] / temperature)
        predicted.append(score.argmax())
    return np.array(predicted)


@pytest.mark.parametrize("k, temperature", [(1, 0.07), (7, 0.1), (40, 1.0), (90, 0.5)])
def test_against_float64_loop(k, temperature):
    data = _data()
    settings = {"k": k, "temperature": temperature, "num_classes": 4}
    got = knn.knn_predict(*data, **settings)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, _reference(*data, **settings))


def test_against_sklearn():
    bank, labels, queries = _data(seed=1)
    reference = KNeighborsClassifier(
        7, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1)
    )
    np.testing.assert_array_equal(
        knn.knn_predict(bank, labels, queries, **SETTINGS),
        reference.fit(bank, labels).predict(queries),
    )


@pytest.mark.parametrize("query_chunk, bank_chunk", [(1, 90), (23, 3), (5, 16), (100, 1000)])
def test_chunks_change_nothing(query_chunk, bank_chunk):
    data = _data(seed=2)
    got = knn.knn_predict(*data, **SETTINGS, query_chunk=query_chunk, bank_chunk=bank_chunk)
    np.testing.assert_array_equal(got, _reference(*data, **SETTINGS))


@pytest.mark.parametrize("bank_chunk", [7, 90])
def test_unlabelled_examples_are_not_in_the_bank(bank_chunk):
    bank, labels, queries = _data(seed=3)
    labels[::3] = -1
    known = labels >= 0
    settings = {**SETTINGS, "temperature": 1.0}  # so that each of the k neighbours counts
    got = knn.knn_predict(bank, labels, queries, **settings, bank_chunk=bank_chunk)
    expected = _reference(bank[known], labels[known], queries, **settings)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("bank_chunk", [1, 2, 6])
def test_ties_go_to_the_lower_index_then_the_lower_class(bank_chunk):
    bank = np.eye(2, dtype=np.float32)[[1, 0, 0, 0, 0, 1]]
    labels = np.array([0, 3, 2, 2, 1, 0])
    query = np.eye(2, dtype=np.float32)[:1]
    predict = [
        knn.knn_predict(
            bank, labels, query, k=k, temperature=0.1, num_classes=4, bank_chunk=bank_chunk
        )[0]
        for k in (1, 2, 3)
    ]
    assert predict == [3, 2, 2]


def test_tiny_temperature_is_the_nearest_neighbour():
    data = _data(seed=4)
    got = knn.knn_predict(*data, k=20, temperature=1e-6, num_classes=4)
    np.testing.assert_array_equal(got, _reference(*data, k=1, temperature=1.0, num_classes=4))


def test_accuracy_counts_labelled_queries_and_takes_device_arrays():
    bank, labels, queries = _data(seed=5)
    truth = _reference(bank, labels, queries, **SETTINGS)
    truth[:3] = -1
    truth[3:8] = (truth[3:8] + 1) % 4
    got = knn.knn_accuracy(jnp.asarray(bank), labels, jnp.asarray(queries), truth, **SETTINGS)
    assert got == 15 / 20
    with pytest.raises(ValueError, match="no query is labelled"):
        knn.knn_accuracy(bank, labels, queries, np.full(23, -1), **SETTINGS)


def test_user_errors():
    bank, labels, queries = _data()
    with pytest.raises(ValueError, match=r"k=91 .* this one has 90: choose k"):
        knn.knn_predict(bank, labels, queries, k=91, temperature=0.1, num_classes=4)
    with pytest.raises(ValueError, match="k=1 "):
        knn.knn_predict(bank, np.full(90, -1), queries, k=1, temperature=0.1, num_classes=4)
    with pytest.raises(ValueError, match="temperature=0"):
        knn.knn_predict(bank, labels, queries, k=1, temperature=0, num_classes=4)
    with pytest.raises(ValueError, match="bank label 3 needs a num_classes above 3"):
        knn.knn_predict(bank, labels, queries, k=1, temperature=0.1, num_classes=3)


@pytest.mark.parametrize("place", ["bank", "queries"])
def test_features_that_are_not_finite_have_no_neighbours(place):
    given = {"bank": np.ones((4, 2), np.float32), "queries": np.ones((3, 2), np.float32)}
    given[place][1, 0] = np.nan
    with pytest.raises(FloatingPointError, match=f"features of the {place} are not finite"):
        knn.knn_predict(
            given["bank"], np.zeros(4, int), given["queries"], k=1, temperature=0.1, num_classes=1
        )
