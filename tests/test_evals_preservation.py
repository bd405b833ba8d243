"""Measures of what an encoder preserves against float64 NumPy, closed forms and collapse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from iecl_jax.evals.measures import preservation

pytestmark = pytest.mark.quick

rank_me = jax.jit(preservation.rank_me)
alignment = jax.jit(preservation.alignment)
uniformity = jax.jit(preservation.uniformity, static_argnames="t")
feature_std = jax.jit(preservation.feature_std)


def array(x):
    return jnp.asarray(x, jnp.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def sphere(n, d):
    """n rows uniform on the unit sphere, each stretched by a length that must not matter."""
    rng = np.random.default_rng(n + d)
    return unit(rng.normal(size=(n, d))) * rng.uniform(0.1, 10, size=(n, 1))


# ---------------------------------------------------------------- RankMe


@pytest.mark.parametrize("n, features", [(20, 50), (50, 20), (16, 16)])
def test_rank_me_is_the_exponential_of_the_entropy_of_the_singular_values(n, features):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, features)) * np.geomspace(1, 1e-3, features) + 0.3
    values = np.linalg.svd(x)[1]
    expected = 1.0
    for value in values / values.sum() + 1e-7:
        expected *= value**-value
    np.testing.assert_allclose(rank_me(array(x)), expected, rtol=1e-4)
    np.testing.assert_allclose(rank_me(array(100 * x)), expected, rtol=1e-4)
    np.testing.assert_allclose(rank_me(array(x[::-1])), expected, rtol=1e-4)


@pytest.mark.parametrize("n, features, rank", [(40, 24, 24), (24, 40, 24), (40, 64, 5)])
def test_rank_me_counts_orthogonal_directions(n, features, rank):
    rng = np.random.default_rng(rank)
    left = np.linalg.qr(rng.normal(size=(n, rank)))[0]
    right = np.linalg.qr(rng.normal(size=(features, rank)))[0]
    np.testing.assert_allclose(rank_me(array(left @ right.T)), rank, rtol=1e-3)


@pytest.mark.parametrize("n, features", [(128, 256), (256, 128)])
def test_rank_me_is_one_where_all_rows_are_multiples_of_one(n, features):
    """A Gram matrix would add about 0.1 here."""
    rng = np.random.default_rng(n)
    row = rng.normal(size=(1, features))
    np.testing.assert_allclose(rank_me(array(np.tile(row, (n, 1)))), 1, atol=2e-3)
    np.testing.assert_allclose(rank_me(array(rng.normal(size=(n, 1)) * row)), 1, atol=2e-3)
    np.testing.assert_allclose(rank_me(jnp.zeros((n, features))), 1, atol=2e-3)


# ---------------------------------------------------------------- alignment and uniformity


def test_alignment_is_the_mean_squared_distance_of_pairs_on_the_sphere():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 7)), 5 * rng.normal(size=(30, 7))
    expected = np.mean([np.sum((unit(a) - unit(b)) ** 2) for a, b in zip(x, y, strict=True)])
    np.testing.assert_allclose(alignment(array(x), array(y)), expected, rtol=1e-5)
    np.testing.assert_allclose(alignment(array(x), array(3 * x)), 0, atol=1e-6)
    np.testing.assert_allclose(alignment(array(x), array(-3 * x)), 4, rtol=1e-5)


def test_alignment_of_unrelated_rows_is_two():
    np.testing.assert_allclose(
        alignment(array(sphere(999, 64)), array(sphere(999, 65)[:, :64])), 2, atol=0.03
    )


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_is_the_log_mean_kernel_of_pairs_on_the_sphere(t):
    x = np.random.default_rng(1).normal(size=(25, 6)) + 0.5
    z = unit(x)
    kernel = [np.exp(-t * np.sum((z[i] - z[j]) ** 2)) for j in range(25) for i in range(j)]
    np.testing.assert_allclose(uniformity(array(x), t=t), np.log(np.mean(kernel)), rtol=1e-4)


def test_uniformity_of_a_sphere_is_its_expectation():
    """E exp(2 t z_i'z_j) = 0F1(d/2; t^2) for uniform unit vectors."""
    for d in (3, 64):
        expected = -4 + np.log(scipy.special.hyp0f1(d / 2, 4))
        np.testing.assert_allclose(uniformity(array(sphere(1000, d))), expected, atol=0.02)
    np.testing.assert_allclose(expected, -4 + 8 / d, atol=0.01)  # the docstring's


def test_uniformity_ends_at_zero_and_at_minus_four_t():
    row = np.random.default_rng(2).normal(size=(1, 32))
    np.testing.assert_allclose(uniformity(array(np.tile(row, (64, 1)))), 0, atol=1e-5)
    pair = array(np.concatenate([row, -2 * row]))
    np.testing.assert_allclose(uniformity(pair, t=1.5), -6, rtol=1e-5)


# ---------------------------------------------------------------- deviation of the features


def test_feature_std_is_the_scaled_mean_deviation_of_normalised_channels():
    x = np.random.default_rng(3).normal(size=(40, 9)) * np.arange(1, 10) + 1
    expected = np.sqrt(9) * np.mean([channel.std() for channel in unit(x).T])
    np.testing.assert_allclose(feature_std(array(x)), expected, rtol=1e-5)


def test_feature_std_is_one_at_most_and_zero_at_collapse():
    axes = np.concatenate([np.eye(12), -7 * np.eye(12)])  # each channel has variance 1/12
    np.testing.assert_allclose(feature_std(array(axes)), 1, rtol=1e-5)
    spread = feature_std(array(sphere(1000, 128)))
    np.testing.assert_allclose(spread, 1, atol=0.01)
    assert spread <= 1
    row = np.random.default_rng(4).normal(size=(1, 128))
    np.testing.assert_allclose(feature_std(array(np.tile(row, (64, 1)))), 0, atol=1e-5)


# ---------------------------------------------------------------- all


MEASURES = {
    "rank_me": rank_me,
    "alignment": lambda x: alignment(x, x[::-1]),
    "uniformity": uniformity,
    "feature_std": feature_std,
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_are_float32_scalars_whatever_the_features_and_finite_at_zero(name):
    x = np.random.default_rng(5).normal(size=(24, 12))
    rounded = jnp.asarray(x, jnp.bfloat16)
    got = MEASURES[name](rounded)
    assert got.dtype == jnp.float32
    assert got.shape == ()
    np.testing.assert_allclose(got, MEASURES[name](rounded.astype(jnp.float32)), rtol=1e-5)
    assert np.isfinite(MEASURES[name](jnp.zeros((24, 12))))


def test_products_are_full_float32():
    jaxpr = str(jax.make_jaxpr(preservation.uniformity)(jnp.ones((8, 4))))
    assert jaxpr.count("dot_general") == jaxpr.count("precision=(Precision.HIGHEST") > 0
