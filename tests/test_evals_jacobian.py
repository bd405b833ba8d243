"""Lanczos quadrature against dense matrices, known spectra and the exact Jacobian of SAIB."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.evals.measures import jacobian
from iecl_jax.models.saib import SAIB


def _matrix(values, seed=0):
    """A square matrix with the given singular values."""
    rng = np.random.default_rng(seed)
    n = len(values)
    u, v = (np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(2))
    return (u * values) @ v


@functools.cache
def _lanczos(depth, num_probes):
    def run(matrix, x, key):
        def fn(x):
            return jnp.tanh(matrix @ x.reshape(-1)).reshape(x.shape)

        return jacobian.lanczos(fn, x, key, depth=depth, num_probes=num_probes)

    return jax.jit(run)


def test_exact_is_the_svd_of_the_jacobian():
    matrix = np.float32(_matrix(np.geomspace(0.1, 3, 12)))
    x = np.float32(0.3 * np.random.default_rng(1).normal(size=(3, 4)))
    spectrum = jacobian.exact(lambda x: jnp.tanh(matrix @ x.reshape(-1)).reshape(3, 4))(x)
    slope = 1 - np.tanh(matrix @ x.reshape(-1)) ** 2
    dense = slope[:, None] * np.float64(matrix)
    expected = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(spectrum.values[0], expected, rtol=1e-4)
    value, error = jacobian.log_det(spectrum)
    assert value == pytest.approx(np.linalg.slogdet(dense)[1] / 12, abs=1e-5)
    assert np.isnan(error)


def test_full_depth_is_exact_in_every_probe_direction():
    """With as many steps as dimensions a probe v's weights are exact."""
    n = 10
    matrix = np.float32(_matrix(np.geomspace(0.2, 5, n)))
    spectrum, _ = _lanczos(n, 3)(matrix, np.zeros((2, 5), np.float32), jax.random.key(0))
    np.testing.assert_allclose(spectrum.weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        spectrum.values, np.geomspace(0.2, 5, n)[None, ::-1].repeat(3, 0), 1e-3
    )
    _, sigma, right = np.linalg.svd(np.float64(matrix))
    for key, weights in zip(jax.random.split(jax.random.key(0), 3), spectrum.weights):
        v = np.float64(jax.random.rademacher(key, (n,), jnp.float32)) / np.sqrt(n)
        np.testing.assert_allclose(weights, (right @ v) ** 2, atol=1e-3)
    assert sigma[0] == pytest.approx(5)


def test_log_det_of_a_known_spectrum_within_its_standard_error():
    n, probes = 200, 16
    values = np.random.default_rng(2).uniform(0.8, 3, n)
    matrix, x = np.float32(_matrix(values)), np.zeros((n,), np.float32)
    spectrum, _ = _lanczos(20, probes)(matrix, x, jax.random.key(3))
    value, error = jacobian.log_det(spectrum)
    assert abs(value - np.log(values).mean()) < 4 * error
    assert 0 < error < 0.02
    assert values.min() * 0.999 <= spectrum.values.min() < values.min() * 1.2
    assert values.max() * 0.99 < spectrum.values.max() <= values.max() * 1.001


def test_half_depth_is_the_depth_of_half_the_steps_and_never_below():
    """A Gauss rule overestimates log, the less the deeper."""
    matrix = np.float32(_matrix(np.geomspace(0.01, 3, 60)))
    args = matrix, np.zeros(60, np.float32), jax.random.key(7)
    deep, half = _lanczos(20, 4)(*args)
    shallow, _ = _lanczos(10, 4)(*args)
    np.testing.assert_allclose(half.values, shallow.values, rtol=1e-4)
    np.testing.assert_allclose(half.weights, shallow.weights, atol=1e-4)
    full, _ = _lanczos(60, 4)(*args)
    values = [jacobian.log_det(spectrum)[0] for spectrum in (half, deep, full)]
    assert values[0] > values[1] + 0.01 > values[2] + 0.01


def test_standard_error_is_the_deviation_between_repetitions():
    n = 64
    values = np.geomspace(0.3, 3, n)
    matrix, x = np.float32(_matrix(values)), np.zeros((n,), np.float32)
    runs = [
        jacobian.log_det(_lanczos(16, 8)(matrix, x, jax.random.key(seed))[0]) for seed in range(40)
    ]
    estimates, errors = np.float64(runs).T
    assert np.std(estimates) == pytest.approx(np.mean(errors), rel=0.35)
    # Unbiased over probes at sufficient depth.
    assert np.mean(estimates) == pytest.approx(
        np.log(values).mean(), abs=4 * np.mean(errors) / 40**0.5
    )


def test_log_det_and_share_are_means_over_probes():
    rng = np.random.default_rng(4)
    spectrum = jacobian.Spectrum(np.exp(rng.normal(size=(5, 7))), rng.dirichlet(np.ones(7), 5))
    estimates, below = [], 0.0
    for values, weights in zip(*spectrum):
        estimates.append(sum(w * np.log(s) for s, w in zip(values, weights)))
        below += sum(w for s, w in zip(values, weights) if s < 1) / 5
    mean = sum(estimates) / 5
    error = (sum((x - mean) ** 2 for x in estimates) / 4 / 5) ** 0.5
    assert jacobian.log_det(spectrum) == pytest.approx((mean, error), rel=1e-12)
    assert jacobian.share_below_one(spectrum) == pytest.approx(below, rel=1e-12)
    zero = jacobian.Spectrum(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    assert jacobian.log_det(zero)[0] == -np.inf


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_a_multiple_of_the_identity_ends_krylov_space_at_once(scale):
    x = jnp.ones((4, 3))
    spectrum, _ = jacobian.lanczos(lambda x: scale * x, x, jax.random.key(0), depth=6, num_probes=2)
    np.testing.assert_allclose(spectrum.values, scale, rtol=1e-5)
    value, error = jacobian.log_det(spectrum)
    assert value == pytest.approx(np.log(scale), abs=1e-5)
    assert error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "variant, inner_skip, depth, bias",
    [("paper", False, 24, 0.003), ("expansive", True, 12, 0.001), ("paper", True, 48, 0.01)],
)
def test_lanczos_agrees_with_the_exact_jacobian_of_saib(variant, inner_skip, depth, bias):
    """`bias` is what the truncation at `depth` may cost: most with singular values near 0."""
    saib = SAIB(2, 4, variant=variant, inner_skip=inner_skip)
    x = np.float32(np.random.default_rng(3).normal(size=(2, 8, 8, 3)))
    variables = jax.jit(functools.partial(saib.init, train=True))(jax.random.key(0), x)

    def fn(x):
        return saib.apply(variables, x, train=False)

    exact = jacobian.exact(fn)(x)
    run = jax.jit(functools.partial(jacobian.lanczos, fn, depth=depth, num_probes=32))
    spectrum, half = jax.device_get(run(x, jax.random.key(1)))
    assert jacobian.log_det(half)[0] > jacobian.log_det(spectrum)[0] - 1e-5
    value, error = jacobian.log_det(spectrum)
    assert abs(value - jacobian.log_det(exact)[0]) < 3.5 * error + bias
    assert error < 0.02
    assert spectrum.values.max() == pytest.approx(exact.values.max(), rel=1e-3)
    assert exact.values.min() * 0.999 <= spectrum.values.min() < 1.1 * exact.values.min() + 0.05
    below = jacobian.share_below_one(exact)
    assert jacobian.share_below_one(spectrum) == pytest.approx(below, abs=0.1)


def test_depth_beyond_the_dimensions_is_one_sentence():
    with pytest.raises(ValueError, match="Lanczos depth 13 is more than the 12 dimensions"):
        jacobian.lanczos(lambda x: x, jnp.ones((4, 3)), jax.random.key(0), depth=13, num_probes=1)
