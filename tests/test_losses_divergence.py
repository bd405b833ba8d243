"""The KL forms against their definitions, quadrature and sampling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_reference import numeric_gradient, value_and_grad

from iecl_jax.losses import divergence

pytestmark = pytest.mark.quick

FORMS = [divergence.closed, divergence.eq16, divergence.softmax]


def _draw(seed, n=6, d=3):
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(n, d)) * rng.uniform(0.4, 2, d) + 0.3
    return p, rng.normal(size=(n, d)) * 0.8 - 0.2


def _closed(p, q):
    """Textbook KL of the two Gaussians fitted to p and q, with full covariance matrices."""
    d = p.shape[1]
    mean_p, mean_q = p.mean(0), q.mean(0)
    sigma_p, sigma_q = np.diag(p.var(0)), q.var(0).mean() * np.eye(d)
    inverse = np.linalg.inv(sigma_q)
    log_ratio = np.linalg.slogdet(sigma_q)[1] - np.linalg.slogdet(sigma_p)[1]
    gap = mean_q - mean_p
    return 0.5 * (np.trace(inverse @ sigma_p) - d + gap @ inverse @ gap + log_ratio) / d


def _eq16(p, q):
    """+H(Z') + |mu_phi - mu|^2 / (2 sigma0^2) + d/2 log(2 pi sigma0^2), per dimension."""
    d, s0 = p.shape[1], q.var(0).mean()
    h = sum(scipy.stats.norm(scale=p[:, j].std()).entropy() for j in range(d))
    gap = np.linalg.norm(p.mean(0) - q.mean(0))
    return (h + gap**2 / (2 * s0) + d / 2 * math.log(2 * math.pi * s0)) / d


def _softmax(p, q):
    pairs = zip(scipy.special.softmax(p, 1), scipy.special.softmax(q, 1))
    return np.mean([scipy.stats.entropy(a, b) for a, b in pairs])


@pytest.mark.parametrize(
    "fn, reference",
    [
        (divergence.closed, _closed),
        (divergence.eq16, _eq16),
        (divergence.softmax, _softmax),
    ],
    ids=["closed", "eq16", "softmax"],
)
def test_value_and_gradient(fn, reference):
    rng = np.random.default_rng(7)
    p, q = rng.normal(size=(6, 3)) * [0.5, 1, 2] + 0.3, rng.normal(size=(6, 3)) * 0.8 - 0.2
    value, gradients = value_and_grad(fn, p, q)
    np.testing.assert_allclose(value, reference(p, q), rtol=2e-5)
    np.testing.assert_allclose(
        gradients[0], numeric_gradient(lambda x: reference(x, q), p), rtol=1e-3, atol=2e-5
    )
    np.testing.assert_allclose(
        gradients[1], numeric_gradient(lambda x: reference(p, x), q), rtol=1e-3, atol=2e-5
    )


def test_closed_is_zero_for_equal_isotropic_gaussians_alone():
    p = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert value_and_grad(divergence.closed, p, p)[0] == pytest.approx(0, abs=1e-6)
    stretched = p * [1, 3]
    assert value_and_grad(divergence.closed, stretched, stretched)[0] > 0.1


@settings(deadline=None, max_examples=50, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale_p=st.floats(0, 100),
    scale_q=st.floats(1e-3, 100),
    drift=st.floats(-3, 3),
)
def test_closed_is_never_negative(seed, scale_p, scale_q, drift):
    rng = np.random.default_rng(seed)
    p = rng.normal(size=(6, 3)) * scale_p + drift
    q = rng.normal(size=(6, 3)) * scale_q
    value, gradients = value_and_grad(divergence.closed, p, q)
    assert value >= -1e-5 * (1 + abs(drift) / scale_q)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("fn", FORMS)
@pytest.mark.parametrize("shape", [(6, 3), (2, 3), (6, 1)])
def test_collapse_of_either_or_both_is_finite(fn, shape):
    p, q = _draw(8, *shape)
    same_p, same_q = np.broadcast_to(p[:1], shape), np.broadcast_to(q[:1], shape)
    for pair in [(same_p, q), (p, same_q), (same_p, same_q), (same_p, same_p)]:
        value, gradients = value_and_grad(fn, *pair)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
    if fn is not divergence.eq16:
        assert value == pytest.approx(0, abs=1e-4)  # p and q are equal


# ---------------------------------------------------------------- the fitted Gaussians, integrated


def _fitted(p, q):
    """[(p_j, q_j)]: the fitted distributions of each dimension."""
    s0 = math.sqrt(q.var(0).mean())
    return [
        (scipy.stats.norm(a.mean(), a.std()), scipy.stats.norm(b.mean(), s0))
        for a, b in zip(p.T, q.T)
    ]


def _mean_integral(pairs, integrand):
    """Mean over dimensions of the integral of p_j(x) integrand(p_j, q_j, x)."""
    values = [
        scipy.integrate.quad(
            lambda x, a=a, b=b: a.pdf(x) * integrand(a, b, x), *a.interval(1 - 1e-13)
        )[0]
        for a, b in pairs
    ]
    return np.mean(values)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_closed_is_the_integral_of_the_log_ratio(seed):
    p, q = _draw(seed)
    expected = _mean_integral(_fitted(p, q), lambda a, b, x: a.logpdf(x) - b.logpdf(x))
    assert value_and_grad(divergence.closed, p, q)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eq16_is_off_by_twice_the_entropy_and_the_trace(seed):
    p, q = _draw(seed)
    pairs = _fitted(p, q)
    entropy = _mean_integral(pairs, lambda a, b, x: -a.logpdf(x))
    trace = _mean_integral(pairs, lambda a, b, x: (x - a.mean()) ** 2)
    missing = -2 * entropy + trace / (2 * pairs[0][1].var())
    difference = value_and_grad(divergence.closed, p, q)[0]
    difference -= value_and_grad(divergence.eq16, p, q)[0]
    assert difference == pytest.approx(missing, rel=1e-5)


def test_eq16_takes_either_sign_and_falls_with_the_spread_of_p():
    """What makes it no divergence: the nearer p is to a point, the less it is."""
    p, q = _draw(4)
    values = [value_and_grad(divergence.eq16, scale * p, scale * q)[0] for scale in (0.05, 1)]
    assert values[0] < 0 < values[1]
    squeezed = [
        value_and_grad(divergence.eq16, p.mean(0) + scale * (p - p.mean(0)), q)[0]
        for scale in (1, 0.1, 0.01)
    ]
    assert squeezed[0] > squeezed[1] > squeezed[2]


def test_closed_is_the_mean_log_ratio_of_samples():
    """Within 4 standard errors of 200,000 draws, about 1 % of the value."""
    p, q = _draw(5)
    rng = np.random.default_rng(6)
    pairs = _fitted(p, q)
    samples = [a.rvs(200_000, random_state=rng) for a, _ in pairs]
    ratios = np.mean([a.logpdf(x) - b.logpdf(x) for (a, b), x in zip(pairs, samples)], axis=0)
    error = ratios.std() / math.sqrt(ratios.size)
    value = value_and_grad(divergence.closed, p, q)[0]
    assert value == pytest.approx(ratios.mean(), abs=4 * error)
    assert 4 * error < 0.02 * value


def test_softmax_is_the_mean_log_ratio_of_sampled_categories():
    """Within 4 standard errors of 200,000 draws, about 1 % of the value."""
    p, q = _draw(7)
    probabilities, others = scipy.special.softmax(p, 1), scipy.special.softmax(q, 1)
    rng = np.random.default_rng(8)
    rows = rng.integers(len(p), size=200_000)
    passed = probabilities.cumsum(1)[rows] < rng.uniform(size=(rows.size, 1))
    columns = passed[:, :-1].sum(1)
    ratios = np.log(probabilities[rows, columns] / others[rows, columns])
    error = ratios.std() / math.sqrt(ratios.size)
    value = value_and_grad(divergence.softmax, p, q)[0]
    assert value == pytest.approx(ratios.mean(), abs=4 * error)
    assert 4 * error < 0.02 * value


@pytest.mark.parametrize("fn", FORMS)
def test_narrow_inputs_are_compared_in_float32(fn):
    p, q = (jnp.asarray(x, jnp.bfloat16) for x in _draw(9))
    value, gradients = jax.jit(jax.value_and_grad(fn, (0, 1)))(p, q)
    assert value.dtype == jnp.float32
    assert {g.dtype for g in gradients} == {p.dtype}
    wide, _ = value_and_grad(fn, np.float64(p), np.float64(q))
    np.testing.assert_allclose(value, wide, rtol=1e-5)
