"""The entropy estimators against float64 NumPy loops written from their definitions."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from loss_reference import numeric_gradient, value_and_grad

from iecl_jax.losses import entropy

pytestmark = pytest.mark.quick


def _coding_rate(z, epsilon):
    n, d = z.shape
    covariance = sum(np.outer(row, row) for row in z - z.mean(0))
    return 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * epsilon**2) * covariance)[1] / d


def _gaussian_diagonal(z):
    return np.mean([0.5 * math.log(2 * math.pi * math.e * np.var(column)) for column in z.T])


def _log_ball_and_digammas(n, d, k):
    log_ball = d / 2 * math.log(math.pi) - scipy.special.gammaln(d / 2 + 1)
    return (log_ball + scipy.special.digamma(n) - scipy.special.digamma(k)) / d


def _kozachenko_leonenko(z, neighbors):
    n, d = z.shape
    logs = []
    for i in range(n):
        distances = sorted(math.dist(z[i], z[j]) for j in range(n) if j != i)
        logs.append(math.log(distances[neighbors - 1]))
    return _log_ball_and_digammas(n, d, neighbors) + np.mean(logs)


def _renyi2(z, kernel_scale):
    n, d = z.shape
    kernels = [
        math.exp(-kernel_scale * math.dist(z[i], z[j]) ** 2)
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return -math.log(np.mean(kernels)) / d


ESTIMATORS: list[tuple[Any, Any, dict[str, Any]]] = [
    (entropy.coding_rate, _coding_rate, {"epsilon": 0.5}),
    (entropy.coding_rate, _coding_rate, {"epsilon": 0.1}),
    (entropy.gaussian_diagonal, _gaussian_diagonal, {}),
    (entropy.kozachenko_leonenko, _kozachenko_leonenko, {"neighbors": 1}),
    (entropy.kozachenko_leonenko, _kozachenko_leonenko, {"neighbors": 3}),
    (entropy.renyi2, _renyi2, {"kernel_scale": 2.0}),
    (entropy.renyi2, _renyi2, {"kernel_scale": 0.3}),
]
SHAPES = [(8, 3), (5, 8), (6, 1), (2, 3)]


def _each(cases):
    names = [f"{estimate.__name__}-{options}" for estimate, _, options in cases]
    return pytest.mark.parametrize("estimate, reference, options", cases, ids=names)


_every_shape = pytest.mark.parametrize(
    "estimate, reference, options, shape",
    [
        pytest.param(*case, shape, id=f"{case[0].__name__}-{case[2]}-{shape}")
        for case in ESTIMATORS
        for shape in SHAPES
        if case[2].get("neighbors", 1) < shape[0]
    ],
)


@_every_shape
def test_value_and_gradient(estimate, reference, options, shape):
    z = np.random.default_rng(shape[0]).normal(size=shape) * 0.7 + 0.5
    value, (gradient,) = value_and_grad(estimate, z, **options)
    np.testing.assert_allclose(value, reference(z, **options), rtol=2e-5, atol=1e-5)
    numeric = numeric_gradient(lambda x: reference(x, **options), z)
    np.testing.assert_allclose(gradient, numeric, rtol=2e-3, atol=5e-5)


@_each(ESTIMATORS)
def test_the_order_of_rows_does_not_matter(estimate, reference, options):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(8, 3)).astype(np.float32)
    order = rng.permutation(8)
    value, (gradient,) = value_and_grad(estimate, z, **options)
    permuted, (permuted_gradient,) = value_and_grad(estimate, z[order], **options)
    np.testing.assert_allclose(value, permuted, rtol=1e-5)
    np.testing.assert_allclose(gradient[order], permuted_gradient, rtol=1e-3, atol=1e-5)


def _of_two_points(name, n, d, separation, epsilon=1.0, neighbors=1, kernel_scale=1.0):
    """Closed forms where half of n rows are at one point and half at another; floor 1e-10."""
    squared = separation @ separation
    if name == "coding_rate":
        return 0.5 * math.log(1 + d / epsilon**2 * squared / 4) / d
    if name == "gaussian_diagonal":
        return np.mean(0.5 * np.log(2 * math.pi * math.e * (separation**2 / 4 + 1e-10)))
    if name == "kozachenko_leonenko":
        nearest = 0 if neighbors < n / 2 else squared
        return _log_ball_and_digammas(n, d, neighbors) + 0.5 * math.log(nearest + 1e-10)
    same = n / 2 - 1  # of the n - 1 others
    return -math.log((same + n / 2 * math.exp(-kernel_scale * squared)) / (n - 1)) / d


@pytest.mark.parametrize("clusters", [1, 2])
@_every_shape
def test_collapse_to_one_or_two_points_is_finite(estimate, reference, options, shape, clusters):
    rng = np.random.default_rng(2)
    n, d = 2 * (shape[0] // 2), shape[1]
    points = rng.normal(size=(2, d)).astype(np.float32)
    if clusters == 1:
        points[1] = points[0]
    value, (gradient,) = value_and_grad(estimate, np.tile(points, (n // 2, 1)), **options)
    separation = np.float64(points[1]) - points[0]
    expected = _of_two_points(estimate.__name__, n, d, separation, **options)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)
    assert np.isfinite(gradient).all()


@_each(ESTIMATORS)
def test_a_tight_cluster_far_from_the_origin_is_measured(estimate, reference, options):
    """Half-way to collapse: the spread is a thousandth of the norm."""
    z = (10 + 0.01 * np.random.default_rng(3).normal(size=(8, 3))).astype(np.float32)
    value, (gradient,) = value_and_grad(estimate, z, **options)
    np.testing.assert_allclose(value, reference(np.float64(z), **options), rtol=2e-4, atol=5e-7)
    assert np.isfinite(gradient).all()


def test_renyi2_is_not_negative_where_an_outlier_leaves_the_rest_to_rounding():
    z = np.random.default_rng(5).normal(size=(64, 3)) * 1e-3
    z[0] = 1e5
    assert value_and_grad(entropy.renyi2, z, kernel_scale=2.0)[0] >= 0


@_each(ESTIMATORS[::2])
def test_a_narrow_input_is_measured_in_float32(estimate, reference, options):
    z = jnp.asarray(np.random.default_rng(4).normal(size=(8, 3)), jnp.bfloat16)
    estimate = functools.partial(estimate, **options)
    value, gradient = jax.jit(jax.value_and_grad(estimate))(z)
    assert value.dtype == jnp.float32
    assert gradient.dtype == z.dtype
    expected = reference(np.asarray(z, np.float64), **options)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neighbors", [0, 5])
def test_a_neighbour_that_is_not_there_is_refused(neighbors):
    with pytest.raises(ValueError, match=f"neighbors={neighbors} must be between 1 and 4"):
        entropy.kozachenko_leonenko(jnp.ones((5, 2)), neighbors=neighbors)


def test_renyi2_of_one_row_is_refused():
    with pytest.raises(ValueError, match="give it 2 at least"):
        entropy.renyi2(jnp.ones((1, 2)), kernel_scale=2.0)
