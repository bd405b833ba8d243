"""The expansive SAIB: its equation, and log|det J| >= 0 whatever the input, size and parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iecl_jax.evals.measures import jacobian
from iecl_jax.losses import entropy
from iecl_jax.models.saib import SAIB, patchify, unpatchify

SIZES = [  # images of a group, patch, side, channels, cascaded blocks
    (1, 2, 4, 3, 1),
    (2, 2, 4, 2, 1),
    (3, 1, 3, 1, 2),
    (4, 4, 4, 1, 1),
]


def _saib(group_size, patch_size, num_blocks, residual_scale=1.0):
    return SAIB(
        group_size,
        patch_size,
        variant="expansive",
        num_blocks=num_blocks,
        residual_scale=residual_scale,
    )


@functools.cache
def _functions(size):
    """(shape, shapes of parameters, compiled Jacobian [n, n] of (parameters, images))."""
    group, patch, side, channels, blocks = size
    saib, shape = _saib(group, patch, blocks), (group, side, side, channels)
    init = functools.partial(saib.init, train=True)
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))["params"]

    @jax.jit
    def full(params, images):
        x = jax.jacfwd(lambda x: saib.apply({"params": params}, x, train=True))(images)
        return x.reshape(images.size, images.size)

    return shape, params, full


def _draw(rng, shapes, scale):
    return jax.tree.map(lambda leaf: np.float32(scale * rng.normal(size=leaf.shape)), shapes)


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from(SIZES),
    weight=st.floats(0, 3),
    image=st.floats(0, 30),
)
def test_no_input_and_no_parameter_makes_it_contract(seed, size, weight, image):
    rng = np.random.default_rng(seed)
    shape, shapes, full = _functions(size)
    params = _draw(rng, shapes, weight)
    matrix = np.asarray(full(params, np.float32(image * rng.normal(size=shape))), np.float64)
    singular = np.linalg.svd(matrix, compute_uv=False)
    rounding = 1e-5 * singular[0]
    assert np.log(singular).sum() >= -rounding
    if size[-1] == 1:  # one block's Jacobian is symmetric, and no singular value is below 1
        np.testing.assert_allclose(matrix, matrix.T, atol=rounding)
        assert singular[-1] >= 1 - rounding
    if weight > 0.3 and image > 0.1:
        assert np.log(singular).sum() > 0.01


def test_it_does_not_contract_after_training():
    """Trained to make the output's entropy small, the worst that training can ask of it."""
    shape, shapes, full = _functions(SIZES[1])
    saib, rng = _saib(2, 2, 1), np.random.default_rng(1)
    images = jnp.asarray(rng.normal(size=(16, *shape[1:])), jnp.float32)
    params, tx = _draw(rng, shapes, 0.3), optax.sgd(0.3, 0.9)

    def spread(params):
        out = saib.apply({"params": params}, images, train=True)
        return entropy.gaussian_diagonal(out.reshape(len(images), -1))

    def log_det(params):
        return np.linalg.slogdet(np.asarray(full(params, images[:2]), np.float64))[1]

    @jax.jit
    def train(params, sign):
        def step(carry, _):
            value, grads = jax.value_and_grad(lambda p: sign * spread(p))(carry[0])
            updates, state = tx.update(grads, carry[1])
            return (optax.apply_updates(carry[0], updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=60)

    before = log_det(params)
    (smaller, _), falling = train(params, 1.0)
    (larger, _), _ = train(params, -1.0)
    assert falling[-1] < falling[0] - 0.05
    assert 0 <= log_det(smaller) < before < log_det(larger)


@pytest.mark.parametrize("size", SIZES[:2])
def test_forward_is_the_equation(size):
    """P' = P + W' phi(W P) with W written out as a dense matrix from its action on unit vectors."""
    rng = np.random.default_rng(2)
    (shape, shapes, _), (group, patch, *_) = _functions(size), size
    params = _draw(rng, shapes, 0.7)
    images = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = np.float64(params["block1"]["conv"])
    p = np.float64(patchify(images, group, patch)) + params["block1"]["positions"]
    _, rows, pixels, _ = p.shape
    dense = np.zeros((rows, pixels, 2 * group, rows, pixels, group))
    for r, q, i, j in np.ndindex(rows, pixels, 3, 3):
        if 0 <= r + i - 1 < rows and 0 <= q + j - 1 < pixels:
            dense[r, q, :, r + i - 1, q + j - 1] = kernel[i, j].T
    w = dense.reshape(rows * pixels * 2 * group, -1)
    flat = p.reshape(-1)
    out = (flat + w.T @ (np.log1p(np.exp(w @ flat)) - np.log(2))).reshape(p.shape)
    expected = unpatchify(jnp.asarray(out, jnp.float32), shape, patch)
    variables = {"params": jax.tree.map(jnp.asarray, params)}
    got = _saib(group, patch, 1).apply(variables, images, train=True)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_interface_is_that_of_the_papers_block():
    images = jnp.asarray(np.random.default_rng(3).normal(size=(4, 8, 8, 3)), jnp.bfloat16)
    saib = SAIB(2, 4, variant="expansive", dtype=jnp.bfloat16)
    variables = jax.jit(functools.partial(saib.init, train=True))(jax.random.key(0), images)
    assert set(variables) == {"params"}  # it has no statistics
    out = [saib.apply(variables, images, train=train) for train in (True, False)]
    assert out[0].shape == images.shape
    assert out[0].dtype == images.dtype
    np.testing.assert_array_equal(np.float32(out[0]), np.float32(out[1]))
    alone = saib.apply(variables, images[:2], train=True)  # a group knows nothing of the others
    np.testing.assert_array_equal(np.float32(alone), np.float32(out[0][:2]))


@pytest.mark.parametrize("residual_scale", [pytest.param(0.0, marks=pytest.mark.slow), 1.0, 4.0])
def test_initial_size_of_the_residual(residual_scale):
    """E[W'W] = residual_scale I, and the slope of phi is 1/2 at 0."""
    saib = _saib(16, 4, 1, residual_scale)
    images = jnp.zeros((16, 8, 8, 3))
    variables = saib.init(jax.random.key(0), images, train=True)
    variables["params"]["block1"]["positions"] *= 0
    spectrum, _ = jacobian.lanczos(
        lambda x: saib.apply(variables, x, train=True),
        images,
        jax.random.key(1),
        depth=8,
        num_probes=8,
    )
    mean = float((spectrum.weights * spectrum.values).sum(-1).mean())
    # Zero padding leaves out the taps beyond the borders of 12 rows x 16 pixels.
    inside = (3 * 12 - 2) / (3 * 12) * (3 * 16 - 2) / (3 * 16)
    assert mean == pytest.approx(1 + residual_scale * inside / 2, rel=0.02)


@pytest.mark.parametrize("variant", ["paper", "expansive"])
@pytest.mark.parametrize("group_size", [1, 2, 8])
def test_any_group_from_one_image_to_the_batch(variant, group_size):
    images = np.float32(np.random.default_rng(4).normal(size=(8, 4, 4, 3)))
    saib = SAIB(group_size, 2, variant=variant)

    @jax.jit
    def run(images):
        variables = saib.init(jax.random.key(0), images, train=True)
        fn = functools.partial(saib.apply, variables, train=False)
        # Which images an image reaches.
        return jnp.abs(fn(images.at[0].add(1)) - fn(images)).max((1, 2, 3)) > 0

    assert run(images).tolist() == [i < group_size for i in range(8)]
