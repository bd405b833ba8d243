"""Assignments to prototypes against solo-learn's arrays, against loops in float64, and at limits.

tests/swav.npz was written by solo-learn 9187ea3 (its SinkhornKnopp and its loss of SwAV)
with torch 2.13 on a CPU in float64: inputs and outputs for 4 views of 6 images, 5 prototypes.
"""

import functools
import math
import pathlib

import assigned_losses
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient

from iecl_jax.losses import assignment

pytestmark = pytest.mark.quick

REFERENCE = dict(np.load(pathlib.Path(__file__).parent / "swav.npz"))
SWAV = {"epsilon": 0.05, "iterations": 3}
TEMPERATURE = 0.1


def _loss(scores):
    codes = jax.vmap(functools.partial(assignment.sinkhorn, **SWAV))(scores[:2])
    return assignment.of_other_views(codes, scores / TEMPERATURE), codes


def test_codes_loss_and_gradients_are_those_of_solo_learn():
    with jax.enable_x64(True):
        scores = jnp.asarray(REFERENCE["scores"])
        (loss, codes), gradient = jax.jit(jax.value_and_grad(_loss, has_aux=True))(scores)
        queued = REFERENCE["queue"] @ REFERENCE["prototypes"].T
        everyone = jnp.concatenate([scores[0], jnp.asarray(queued)])
        with_queue = jax.jit(functools.partial(assignment.sinkhorn, **SWAV))(everyone)[:6]
    np.testing.assert_allclose(codes, REFERENCE["codes"], rtol=1e-6)
    np.testing.assert_allclose(with_queue, REFERENCE["codes_with_queue"], rtol=1e-6)
    np.testing.assert_allclose(loss, REFERENCE["loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, REFERENCE["grad_scores"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("epsilon, iterations", [(0.05, 3), (0.3, 1), (0.05, 20)])
def test_sinkhorn_is_the_loop(epsilon, iterations):
    scores = np.random.default_rng(iterations).uniform(-1, 1, (9, 4))
    sinkhorn = jax.jit(
        functools.partial(assignment.sinkhorn, epsilon=epsilon, iterations=iterations)
    )
    got = sinkhorn(jnp.float32(scores))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, assigned_losses.sinkhorn(scores.tolist(), epsilon, iterations), rtol=1e-4, atol=1e-7
    )
    # A large constant changes nothing, and overflows nothing.
    np.testing.assert_allclose(sinkhorn(jnp.float32(scores + 8)), got, rtol=1e-3, atol=1e-6)


def test_rows_sum_to_one_and_columns_become_equal():
    scores = jnp.float32(np.random.default_rng(1).uniform(-1, 1, (12, 4)))
    codes = assignment.sinkhorn(scores, epsilon=0.1, iterations=300)
    np.testing.assert_allclose(codes.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(codes.sum(0), 12 / 4, rtol=1e-3)


def test_rows_that_do_not_count_change_nothing():
    scores = np.random.default_rng(2).uniform(-1, 1, (9, 4))
    counted = np.array([True, False, True, True, False, True, True, True, True])
    got = jax.jit(functools.partial(assignment.sinkhorn, **SWAV))(
        jnp.float32(scores), counted=jnp.asarray(counted)
    )
    expected = assigned_losses.sinkhorn(scores[counted].tolist(), 0.05, 3)
    np.testing.assert_allclose(np.asarray(got)[counted], expected, rtol=1e-4, atol=1e-7)
    assert np.isfinite(got).all()


def test_the_loss_of_four_views_and_its_gradient():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(4, 5, 3))
    codes = rng.dirichlet([0.5] * 3, size=(2, 5))

    def loss(codes, scores):
        return assignment.of_other_views(codes, scores / 0.5)

    value, gradient = jax.jit(jax.value_and_grad(loss, 1))(jnp.float32(codes), jnp.float32(scores))
    assert value.dtype == jnp.float32

    def reference(x):
        return assigned_losses.of_other_views(codes.tolist(), x.tolist(), 0.5)

    np.testing.assert_allclose(value, reference(scores), rtol=1e-5)
    np.testing.assert_allclose(gradient, numeric_gradient(reference, scores), rtol=1e-3, atol=1e-5)


def test_no_gradient_flows_through_an_assignment():
    scores = jnp.float32(np.random.default_rng(4).uniform(-1, 1, (6, 3)))

    def first_column(scores):
        return assignment.sinkhorn(scores, **SWAV)[:, 0].sum()

    np.testing.assert_array_equal(jax.grad(first_column)(scores), np.zeros((6, 3)))


def test_entropy_and_prototypes_in_use():
    rows = jnp.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3] * 3, [0.1, 0.2, 0.7]])
    expected = [0, math.log(2), math.log(3), -sum(p * math.log(p) for p in (0.1, 0.2, 0.7))]
    np.testing.assert_allclose(assignment.entropy(rows), expected, rtol=1e-6)
    assert int(assignment.num_used(rows)) == 2
    assert int(assignment.num_used(jnp.eye(7)[:4])) == 4


def test_equal_scores_share_the_images_equally_and_the_loss_is_log_k():
    scores = jnp.ones((2, 6, 5))
    loss, codes = _loss(scores)
    np.testing.assert_allclose(codes, 1 / 5, rtol=1e-6)
    np.testing.assert_allclose(loss, math.log(5), rtol=1e-6)
