"""SoftNCE against the authors' program and float64 NumPy written from its definition.

tests/light_moco.npz has inputs (unit rows) and outputs of Light-MoCo's program (Linwenye/light-moco
a825a2e) with torch 2.13 on the CPU: temperature 0.1, mass 0.2, k = 10, float64.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient

from iecl_jax.losses import contrastive, soft_contrastive

pytestmark = pytest.mark.quick

AUTHORS = np.load(pathlib.Path(__file__).with_name("light_moco.npz"))
OF_AUTHORS = {"uniform": 1, "halves": 2, "all": 5}
# What the definition gives, written out: {(strategy, k): a share for each rank}
WRITTEN_OUT = {
    ("uniform", 1): [1],
    ("uniform", 4): [1 / 4] * 4,
    ("halves", 5): [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8],
    ("halves", 20): [1 / 4] * 2 + [1 / 24] * 6 + [1 / 48] * 12,
    ("thirds", 20): [1 / 6] * 2 + [1 / 18] * 6 + [1 / 36] * 12,
    ("thirds", 10): [1 / 3] + [1 / 9] * 3 + [1 / 18] * 6,
    ("geometric", 11): [0.5**i for i in range(1, 11)] + [0.5**10],
    ("geometric", 1): [1],
    ("all", 7): [],
}


@pytest.mark.parametrize("strategy, k", WRITTEN_OUT)
def test_shares_are_those_of_the_definition(strategy, k):
    found = soft_contrastive.shares(strategy, k)
    np.testing.assert_allclose(found, WRITTEN_OUT[strategy, k], rtol=1e-12)
    assert not found or math.isclose(sum(found), 1)


@pytest.mark.parametrize("strategy", OF_AUTHORS)
def test_the_loss_is_that_of_the_authors_program(strategy):
    number = OF_AUTHORS[strategy]
    q, k, queue = (jnp.asarray(AUTHORS[name], jnp.float32) for name in ("q", "k", "queue"))
    loss = functools.partial(
        soft_contrastive.soft_nce,
        temperature=0.1,
        mass=0.2,
        shares=soft_contrastive.shares(strategy, 10),
    )
    (value, *_), pull = jax.vjp(lambda q: loss(q, k, jnp.arange(4), negatives=queue), q)
    np.testing.assert_allclose(value, AUTHORS[f"loss_strategy{number}"], rtol=1e-6)
    np.testing.assert_allclose(
        value, _reference(AUTHORS["q"], AUTHORS["k"], AUTHORS["queue"], strategy, 10)[0], rtol=1e-6
    )
    # With the authors' targets t, the gradient to the logits is (softmax - t) / (number of rows).
    rows = np.concatenate([AUTHORS["k"][:, None], np.repeat(AUTHORS["queue"][None], 4, 0)], 1)
    logits = np.einsum("bd,bnd->bn", AUTHORS["q"], rows) / 0.1
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    to_logits = (softmax - AUTHORS[f"targets_strategy{number}"]) / 4
    to_q = np.einsum("bn,bnd->bd", to_logits, rows) / 0.1
    to_q -= AUTHORS["q"] * (to_q * AUTHORS["q"]).sum(1, keepdims=True)  # of the normalisation
    (gradient,) = pull((jnp.float32(1), jnp.float32(0), jnp.float32(0)))
    np.testing.assert_allclose(gradient, to_q, rtol=1e-4, atol=1e-6)


def _reference(anchors, keys, negatives, strategy, k, *, mass=0.2, temperature=0.1):
    """(loss, top1, share of the positive) as a loop; without negatives, the other keys are."""
    losses, hits, positive_shares = [], [], []
    for i, anchor in enumerate(anchors):
        rivals = np.delete(keys, i, axis=0) if negatives is None else negatives
        cosines = [
            anchor @ row / math.sqrt(anchor @ anchor) / math.sqrt(row @ row)
            for row in (keys[i], *rivals)
        ]
        total = sum(math.exp(cosine / temperature) for cosine in cosines)
        own, *others = (cosine / temperature - math.log(total) for cosine in cosines)
        others = sorted(others, reverse=True)
        shares = WRITTEN_OUT.get((strategy, k)) or soft_contrastive.shares(strategy, k)
        shares = shares or [1 / len(others)] * len(others)
        soft = sum(share * other for share, other in zip(shares, others, strict=False))
        losses.append(-(1 - mass) * own - mass * soft)
        hits.append(own > others[0])
        positive_shares.append(math.exp(own))
    return np.mean(losses), np.mean(hits), np.mean(positive_shares)


@pytest.mark.parametrize("queue", [True, False])
@pytest.mark.parametrize(
    "strategy, k", [("uniform", 4), ("geometric", 3), ("thirds", 5), ("all", 9)]
)
def test_value_and_gradient_are_those_of_the_loop(strategy, k, queue):
    rng = np.random.default_rng(k)
    anchors, keys = rng.normal(size=(7, 3)) * 2, rng.normal(size=(7, 3)) * 0.3
    anchors[:3] += 9 * keys[:3]
    arrays = [anchors, keys] + [rng.normal(size=(9, 3))] * queue
    settings = {"temperature": 0.4, "mass": 0.3}
    shares = soft_contrastive.shares(strategy, k)

    @jax.jit
    def fn(*arrays):
        def loss(anchors, keys, negatives=None):
            value, *measures = soft_contrastive.soft_nce(
                anchors, keys, jnp.arange(7), shares=shares, negatives=negatives, **settings
            )
            return value, measures

        return jax.value_and_grad(loss, tuple(range(len(arrays))), has_aux=True)(*arrays)

    (value, measures), gradients = fn(*(jnp.asarray(a, jnp.float32) for a in arrays))

    def reference(anchors, keys, negatives=None):
        return _reference(anchors, keys, negatives, strategy, k, **settings)

    expected, *expected_measures = reference(*arrays)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(measures, expected_measures, rtol=2e-5)
    assert 0 < expected_measures[0] < 1
    for i, gradient in enumerate(gradients):
        numeric = numeric_gradient(
            lambda x, i=i: reference(*arrays[:i], x, *arrays[i + 1 :])[0], arrays[i]
        )
        np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=2e-5)
    assert abs(gradients[0]).max() > 1e-3


def test_without_mass_it_is_info_nce():
    rng = np.random.default_rng(1)
    anchors, keys = jnp.asarray(rng.normal(size=(2, 6, 4)), jnp.float32)
    soft = functools.partial(
        soft_contrastive.soft_nce, temperature=0.2, mass=jnp.float32(0), shares=[0.5, 0.5]
    )
    hard = functools.partial(contrastive.info_nce, temperature=0.2)
    soft_loss, soft_top1, _ = jax.jit(soft)(anchors, keys, jnp.arange(6))
    loss, top1 = jax.jit(hard)(anchors, keys, jnp.arange(6))
    np.testing.assert_allclose((soft_loss, soft_top1), (loss, top1), rtol=1e-6)
