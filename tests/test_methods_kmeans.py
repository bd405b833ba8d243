"""k-means against scikit-learn, DeepCluster-v2's own program, and loops; the agreement of labels.

`deepcluster_v2.npz` holds inputs and outputs of facebookresearch/swav's `cluster_memory` (commit
06b1b7c, torch 2.13): the memory of two crops, and for three heads, which read crop 0, 1 and 0, the
assignments and centroids after 10 iterations from the first rows of the memory.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from iecl_jax.losses.product import product
from iecl_jax.methods.parts import kmeans
from iecl_jax.methods.parts.agreement import normalized_mutual_information

pytestmark = pytest.mark.quick

REFERENCE = pathlib.Path(__file__).parent / "deepcluster_v2.npz"
fit = jax.jit(kmeans.fit, static_argnames=("iterations", "spherical"))


@pytest.fixture(params=[2**24, 40])
def blocks(request, monkeypatch):
    """All rows at once, and a few at a time with a last block that is not full."""
    monkeypatch.setattr(kmeans, "BLOCK", request.param)
    return jax.jit(functools.partial(kmeans.fit), static_argnames=("iterations", "spherical"))


def _points(seed, number=70, width=6, clusters=5):
    rng = np.random.default_rng(seed)
    centers = 2 * rng.normal(size=(clusters, width))
    rows = centers[rng.integers(0, clusters, number)] + rng.normal(size=(number, width))
    return rows.astype(np.float32)


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize("iterations", [0, 1, 3, 20])
def test_euclidean_is_scikit_learns(blocks, iterations):
    rows = _points(0)
    given = rows[::14]
    centroids, labels = blocks(rows, given, iterations=iterations)
    if iterations:
        expected = KMeans(5, init=given, n_init=1, algorithm="lloyd", max_iter=iterations, tol=0)
        expected.fit(rows.astype(np.float64))
        np.testing.assert_allclose(centroids, expected.cluster_centers_, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(labels, expected.labels_)
    else:
        np.testing.assert_array_equal(centroids, given)
    assert labels.dtype == jnp.int32
    assert len(np.unique(labels)) == 5


@pytest.mark.parametrize("head", range(3))
def test_spherical_is_the_authors(blocks, head):
    with np.load(REFERENCE) as reference:
        memory = reference["memory"][head % 2]
        centroids, labels = blocks(memory, memory[:5], iterations=10, spherical=True)
        np.testing.assert_array_equal(labels, reference["assignments"][head])
        np.testing.assert_allclose(centroids, reference["centroids"][head], rtol=1e-6, atol=1e-6)


def _loop(rows, centroids, iterations, counted):
    """Spherical k-means in float64; an empty cluster keeps its centroid."""
    rows, centroids = rows.astype(np.float64), centroids.astype(np.float64)
    for iteration in range(iterations + 1):
        labels = [
            max(range(len(centroids)), key=lambda k, row=row: row @ centroids[k]) for row in rows
        ]
        labels = [label if counts else -1 for label, counts in zip(labels, counted)]
        for k in range(len(centroids)) if iteration < iterations else ():
            members = [row for row, label in zip(rows, labels) if label == k]
            if members:
                centroids[k] = _unit(np.mean(members, axis=0))
    return centroids, labels


def test_spherical_with_rows_that_do_not_count_and_empty_clusters_is_the_loop(blocks):
    rows, counted = _unit(_points(1) + np.float32([20, 0, 0, 0, 0, 0])), np.arange(70) % 4 != 1
    given = np.concatenate([rows[:4], -rows[:1]])
    centroids, labels = blocks(rows, given, iterations=4, spherical=True, counted=counted)
    expected, expected_labels = _loop(rows, given, 4, counted)
    np.testing.assert_array_equal(labels, expected_labels)
    np.testing.assert_allclose(centroids, expected, rtol=1e-5, atol=1e-6)
    assert {*np.unique(labels)} == {-1, 0, 1, 2, 3}
    np.testing.assert_array_equal(centroids[4], given[4])
    assert (np.asarray(labels) == -1).sum() == 18


def test_an_empty_cluster_gets_half_of_a_big_one():
    rows = _points(2)
    given = np.concatenate([rows[:3], np.full((4, 6), 50, np.float32)])
    kept, _ = fit(rows, given, iterations=1)
    np.testing.assert_array_equal(kept[3:], given[3:])
    split, _ = fit(rows, given, iterations=1, refill=jax.random.key(0))
    # Each half is a centroid times 1 +- 1/1024 per dimension, or a half of a half.
    for half in np.asarray(split):
        assert abs(half / np.asarray(kept)[:3] - 1).max(1).min() < 4 / 1024
    centroids, labels = fit(rows, given, iterations=20, refill=jax.random.key(0))
    sizes = np.bincount(labels, minlength=7)
    assert (sizes > 0).all(), sizes
    for k, centroid in enumerate(centroids):
        np.testing.assert_allclose(
            centroid, rows[np.asarray(labels) == k].mean(0), rtol=0.2, atol=0.3
        )


def test_refilling_ends_when_no_cluster_can_be_split():
    rows = np.zeros((3, 2), np.float32)
    centroids, labels = fit(
        rows, np.ones((5, 2), np.float32), iterations=3, refill=jax.random.key(0)
    )
    assert np.isfinite(centroids).all()
    assert len(labels) == 3


def test_draws_are_different_rows_that_count():
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    counted = np.arange(20) % 2 == 0
    drawn = {
        seed: kmeans.draw(jax.random.key(seed), jnp.asarray(rows), 7, jnp.asarray(counted))
        for seed in (0, 1)
    }
    for found in drawn.values():
        places = np.asarray(found)[:, 0] / 2
        assert len(set(places)) == 7
        assert (places % 2 == 0).all()
    assert (drawn[0] != drawn[1]).any()
    everyone = kmeans.draw(jax.random.key(0), jnp.asarray(rows), 10, jnp.asarray(counted))
    np.testing.assert_array_equal(np.sort(everyone[:, 0]), rows[::2, 0])


@pytest.mark.parametrize("clusters", [1, 3, 40])
def test_agreement_is_scikit_learns(clusters):
    rng = np.random.default_rng(clusters)
    first = rng.integers(0, clusters, 500).astype(np.int32)
    noise = rng.integers(0, 7, 500).astype(np.int32)
    second = np.where(rng.uniform(size=500) < 0.6, (3 * first) % 41, noise).astype(np.int32)
    measure = jax.jit(normalized_mutual_information)
    everyone = np.ones(500, bool)
    for other in (first, second, noise, np.zeros_like(first)):
        for counted in (everyone, rng.uniform(size=500) < 0.7):
            expected = normalized_mutual_info_score(first[counted], other[counted])
            np.testing.assert_allclose(measure(first, other, counted), expected, atol=2e-6)
    assert measure(first, second, ~everyone) == 0


def test_products_are_float32_whoever_calls():
    rows = jnp.ones((6, 4))
    with jax.default_matmul_precision("bfloat16"):
        program = str(jax.make_jaxpr(lambda x: kmeans.fit(x, x[:2], iterations=2))(rows))
    highest = str(jax.make_jaxpr(product)(rows, rows.T)).count("HIGHEST")
    assert program.count("HIGHEST") == highest * program.count("dot_general")
