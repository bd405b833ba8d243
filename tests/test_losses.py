"""InfoNCE against float64 NumPy written from its equation, gradients by finite differences."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient, value_and_grad

from iecl_jax.losses import contrastive
from iecl_jax.losses.standardize import standardize

pytestmark = pytest.mark.quick


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

        numeric = numeric_gradient(moved, arrays[i])
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

    value, (gradient,) = value_and_grad(
        lambda z: contrastive.l2_normalize(z).sum(), np.zeros((2, 3))
    )
    assert value == 0
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("length", [1e-11, 4e-7, 1e10])
def test_short_and_long_embeddings_have_a_direction(length):
    """PyTorch's `normalize` floors the length itself at 1e-12, not its square."""
    rng = np.random.default_rng(0)
    views = rng.normal(size=(2, 6, 3)) + 1
    views /= np.linalg.norm(views, axis=-1, keepdims=True)

    def loss(views):
        return contrastive.nt_xent(views, views, jnp.arange(6), temperature=0.2)[0]

    def reference(views):
        first, second = views / np.linalg.norm(views, axis=-1, keepdims=True)
        rows = np.concatenate([first, second])
        logits = rows @ rows.T / 0.2
        np.fill_diagonal(logits, -np.inf)
        positive = (first * second).sum(1) / 0.2
        return np.log(np.exp(logits).sum(1)).mean() - positive.mean()

    value, (gradient,) = value_and_grad(loss, length * views)
    np.testing.assert_allclose(value, reference(views), rtol=1e-5)
    expected = numeric_gradient(reference, views) / length
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=1e-5 / length)


def test_vectors_below_the_floor_shrink():
    x = np.float32([[3e-14, 4e-14]])
    np.testing.assert_allclose(contrastive.l2_normalize(jnp.asarray(x)), x / 1e-12, rtol=1e-5)


@pytest.mark.parametrize("ratio", [0, 100, 1000])
def test_standardize_where_the_mean_is_large(ratio):
    x = np.float32(np.random.default_rng(0).normal(size=(5, 64)) + ratio)
    wide = np.float64(x)
    cotangent = np.random.default_rng(1).normal(size=x.shape)

    def reference(x):
        centred = x - x.mean(1, keepdims=True)
        return (centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * cotangent).sum()

    got = jax.jit(standardize)(jnp.asarray(x))
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, expected, atol=2e-7 * max(ratio, 10))
    _, (gradient,) = value_and_grad(lambda x: (standardize(x) * jnp.float32(cotangent)).sum(), wide)
    np.testing.assert_allclose(gradient, numeric_gradient(reference, wide), atol=1e-3)
