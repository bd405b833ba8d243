"""Every loss against float64 NumPy written from its equation, gradients by finite differences."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from iecl_jax.losses import contrastive, divergence, entropy


def _numeric_gradient(fn, x, step=1e-5):
    """Central differences of a float64 function, entry by entry."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        moved = []
        for sign in (1, -1):
            y = x.copy()
            y[i] += sign * step
            moved.append(fn(y))
        gradient[i] = (moved[0] - moved[1]) / (2 * step)
    return gradient


@functools.cache
def _jitted(fn, num_arrays, options):
    fn = functools.partial(fn, **dict(options))
    return jax.jit(jax.value_and_grad(fn, tuple(range(num_arrays))))


def _value_and_grad(fn, *arrays, **options):
    """Value and gradients with respect to all arrays, as NumPy."""
    compiled = _jitted(fn, len(arrays), tuple(options.items()))
    value, gradients = compiled(*(jnp.asarray(a, jnp.float32) for a in arrays))
    return float(value), [np.asarray(g) for g in gradients]


# ---------------------------------------------------------------- InfoNCE


def _info_nce_reference(anchors, keys, positives, temperature, negatives=None):
    def unit(v):
        return v / math.sqrt(sum(a * a for a in v))

    losses, hits = [], []
    for anchor, positive in zip(anchors, positives):
        if negatives is None:
            candidates, target = list(keys), positive
        else:
            candidates, target = [keys[positive], *negatives], 0
        logits = np.array([unit(anchor) @ unit(c) / temperature for c in candidates])
        losses.append(math.log(sum(np.exp(logits - logits[target]))))
        hits.append(all(logits[target] > v for j, v in enumerate(logits) if j != target))
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("queue, temperature", [(0, 0.07), (7, 0.5)])
def test_info_nce_value_and_gradient(queue, temperature):
    rng = np.random.default_rng(queue)
    anchors, keys = rng.normal(size=(4, 3)) * 2, rng.normal(size=(6, 3)) * 0.3
    positives = np.array([3, 0, 5, 2])
    anchors[0] += 9 * keys[3]  # one hit at least, so that top1 can be seen to be wrong
    negatives = [rng.normal(size=(queue, 3))] if queue else []

    @jax.jit
    def fn(anchors, keys, *negatives):
        def loss(anchors, keys, *negatives):
            queue = negatives[0] if negatives else None
            return contrastive.info_nce(
                anchors, keys, jnp.asarray(positives), temperature=temperature, negatives=queue
            )

        argnums = tuple(range(2 + len(negatives)))
        return jax.value_and_grad(loss, argnums, has_aux=True)(anchors, keys, *negatives)

    arrays: list[Any] = [anchors, keys, *negatives]
    (value, got_top1), gradients = fn(*(jnp.asarray(a, jnp.float32) for a in arrays))
    expected, top1 = _info_nce_reference(anchors, keys, positives, temperature, *negatives)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    assert float(got_top1) == top1
    assert 0 < top1 < 1
    for i, gradient in enumerate(gradients):

        def moved(x, i=i):
            args = [*arrays[:i], x, *arrays[i + 1 :]]
            return _info_nce_reference(args[0], args[1], positives, temperature, *args[2:])[0]

        numeric = _numeric_gradient(moved, arrays[i])
        np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=2e-5)
    assert abs(gradients[0]).max() > 1e-3


def test_info_nce_of_equal_embeddings_is_log_of_the_number_of_keys():
    ones = jnp.ones((5, 3))
    info_nce = functools.partial(contrastive.info_nce, temperature=0.2)
    loss, top1 = jax.jit(info_nce)(ones, ones, jnp.arange(5))
    np.testing.assert_allclose(loss, math.log(5), rtol=1e-6)
    assert loss.dtype == top1.dtype == jnp.float32


def test_l2_normalize():
    x = np.random.default_rng(0).normal(size=(3, 2, 4)) * 10.0 ** np.arange(-4, 5, 4)[:, None, None]
    got = contrastive.l2_normalize(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=1e-5)
    assert contrastive.l2_normalize(jnp.ones((2, 2), jnp.bfloat16)).dtype == jnp.float32

    value, (gradient,) = _value_and_grad(
        lambda z: contrastive.l2_normalize(z).sum(), np.zeros((2, 3))
    )
    assert value == 0
    assert np.isfinite(gradient).all()


# ---------------------------------------------------------------- entropy estimators


def _coding_rate(z, epsilon):
    n, d = z.shape
    covariance = sum(np.outer(row, row) for row in z - z.mean(0))
    return 0.5 * np.linalg.slogdet(np.eye(d) + d / (n * epsilon**2) * covariance)[1] / d


def _gaussian_diagonal(z):
    return np.mean([0.5 * math.log(2 * math.pi * math.e * np.var(column)) for column in z.T])


def _kozachenko_leonenko(z, neighbors):
    n, d = z.shape
    logs = []
    for i in range(n):
        distances = sorted(math.dist(z[i], z[j]) for j in range(n) if j != i)
        logs.append(math.log(distances[neighbors - 1]))
    log_ball = d / 2 * math.log(math.pi) - scipy.special.gammaln(d / 2 + 1)
    digammas = scipy.special.digamma(n) - scipy.special.digamma(neighbors)
    return (digammas + log_ball) / d + np.mean(logs)


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
_each = pytest.mark.parametrize(
    "estimate, reference, options",
    ESTIMATORS,
    ids=[f"{estimate.__name__}-{options}" for estimate, _, options in ESTIMATORS],
)


@_each
@pytest.mark.parametrize("shape", [(8, 3), (5, 8)])
def test_entropy_value_and_gradient(estimate, reference, options, shape):
    z = np.random.default_rng(shape[0]).normal(size=shape) * 0.7 + 0.5
    value, (gradient,) = _value_and_grad(estimate, z, **options)
    np.testing.assert_allclose(value, reference(z, **options), rtol=2e-5, atol=1e-5)
    numeric = _numeric_gradient(lambda x: reference(x, **options), z)
    np.testing.assert_allclose(gradient, numeric, rtol=2e-3, atol=5e-5)


@_each
def test_entropy_ignores_the_order_of_rows(estimate, reference, options):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(8, 3)).astype(np.float32)
    order = rng.permutation(8)
    value, (gradient,) = _value_and_grad(estimate, z, **options)
    permuted, (permuted_gradient,) = _value_and_grad(estimate, z[order], **options)
    np.testing.assert_allclose(value, permuted, rtol=1e-5)
    np.testing.assert_allclose(gradient[order], permuted_gradient, rtol=1e-3, atol=1e-5)


@_each
@pytest.mark.parametrize("shape", [(8, 3), (5, 8)])
def test_entropy_is_finite_at_collapse(estimate, reference, options, shape):
    rng = np.random.default_rng(2)
    spread = rng.normal(size=shape)
    spread /= np.linalg.norm(spread, axis=1, keepdims=True)
    value, (gradient,) = _value_and_grad(estimate, np.tile(spread[:1], (shape[0], 1)), **options)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value < reference(spread, **options) - 0.05
    if estimate is entropy.coding_rate:
        assert value == pytest.approx(0, abs=1e-5)


def test_entropy_of_bfloat16_is_of_the_rounded_rows_in_float32():
    z = jnp.asarray(np.random.default_rng(3).normal(size=(6, 4)), jnp.bfloat16)
    for estimate, reference, options in ESTIMATORS[::2]:
        value = jax.jit(functools.partial(estimate, **options))(z)
        assert value.dtype == jnp.float32
        expected = reference(np.asarray(z, np.float64), **options)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_gaussian_diagonal_of_a_gaussian_is_its_entropy():
    deviations = np.array([0.1, 1.0, 5.0])
    z = np.random.default_rng(4).normal(size=(40_000, 3)) * deviations + 2
    expected = np.mean(scipy.stats.norm(scale=deviations).entropy())
    got = jax.jit(entropy.gaussian_diagonal)(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(got, expected, atol=0.01)


@pytest.mark.parametrize("neighbors", [1, 4])
@pytest.mark.parametrize("name", ["uniform cube", "gaussian"])
def test_kozachenko_leonenko_is_consistent(name, neighbors):
    rng = np.random.default_rng(5)
    if name == "uniform cube":
        z, expected = rng.uniform(0, 3, size=(2000, 2)), math.log(3)
    else:
        z, expected = rng.normal(size=(2000, 3)), float(scipy.stats.norm.entropy())
    fn = jax.jit(functools.partial(entropy.kozachenko_leonenko, neighbors=neighbors))
    np.testing.assert_allclose(fn(jnp.asarray(z, jnp.float32)), expected, atol=0.04)


def test_coding_rate_is_zero_for_equal_rows_and_grows_with_spread():
    z = np.random.default_rng(6).normal(size=(6, 4))
    fn = jax.jit(functools.partial(entropy.coding_rate, epsilon=0.5))
    rates = [float(fn(jnp.asarray(scale * z, jnp.float32))) for scale in (0, 1, 2)]
    assert rates[0] == 0 < rates[1] < rates[2]


# ---------------------------------------------------------------- divergence


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
def test_divergence_value_and_gradient(fn, reference):
    rng = np.random.default_rng(7)
    p, q = rng.normal(size=(6, 3)) * [0.5, 1, 2] + 0.3, rng.normal(size=(6, 3)) * 0.8 - 0.2
    value, gradients = _value_and_grad(fn, p, q)
    np.testing.assert_allclose(value, reference(p, q), rtol=2e-5)
    np.testing.assert_allclose(
        gradients[0], _numeric_gradient(lambda x: reference(x, q), p), rtol=1e-3, atol=2e-5
    )
    np.testing.assert_allclose(
        gradients[1], _numeric_gradient(lambda x: reference(p, x), q), rtol=1e-3, atol=2e-5
    )


def test_closed_is_zero_for_equal_isotropic_gaussians_alone():
    p = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert _value_and_grad(divergence.closed, p, p)[0] == pytest.approx(0, abs=1e-6)
    stretched = p * [1, 3]
    assert _value_and_grad(divergence.closed, stretched, stretched)[0] > 0.1


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
    value, gradients = _value_and_grad(divergence.closed, p, q)
    assert value >= -1e-5 * (1 + abs(drift) / scale_q)
    assert all(np.isfinite(g).all() for g in gradients)


def test_divergences_are_finite_at_collapse():
    rows = np.tile(np.random.default_rng(8).normal(size=(1, 3)), (6, 1))
    for fn in (divergence.closed, divergence.eq16, divergence.softmax):
        value, gradients = _value_and_grad(fn, rows, rows)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)
