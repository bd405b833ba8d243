"""The forms of a convolution against a float64 loop, with all derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.config import pretrain
from iecl_jax.models.conv import convolve
from iecl_jax.models.sliced_conv import FORMS, convolve_as

pytestmark = pytest.mark.quick


def _loop(x, kernel, weights):
    """(y, gradients of sum(weights * y) in x and in the kernel), tap by tap."""
    pad = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y, to_padded, to_kernel = np.zeros(weights.shape), np.zeros(padded.shape), 0 * kernel
    _, height, width, _ = x.shape
    for i, j in np.ndindex(*kernel.shape[:2]):
        for r, c in np.ndindex(height, width):
            pixel, gradient = padded[:, r + i, c + j], weights[:, r, c]
            y[:, r, c] += pixel @ kernel[i, j]
            to_padded[:, r + i, c + j] += gradient @ kernel[i, j].T
            to_kernel[i, j] += pixel.T @ gradient
    return y, to_padded[:, pad : pad + height, pad : pad + width], to_kernel


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [3, 1])
def test_values_and_derivatives_against_a_loop(form, size):
    rng = np.random.default_rng(size)
    x, x_direction = rng.normal(size=(2, 2, 5, 4, 3))
    kernel, kernel_direction = rng.normal(size=(2, size, size, 3, 4))
    weights = rng.normal(size=(2, 5, 4, 4))
    fn = functools.partial(convolve_as, form)

    @jax.jit
    def run(x, kernel, x_direction, kernel_direction, weights):
        y, back = jax.vjp(fn, x, kernel)
        return y, *back(weights), jax.jvp(fn, (x, kernel), (x_direction, kernel_direction))[1]

    arrays = (x, kernel, x_direction, kernel_direction, weights)
    got = run(*(jnp.asarray(each, jnp.float32) for each in arrays))
    expected = _loop(x, kernel, weights)
    moved = _loop(x_direction, kernel, weights)[0] + _loop(x, kernel_direction, weights)[0]
    for each, wanted in zip(got, (*expected, moved), strict=True):
        np.testing.assert_allclose(each, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [3, 5])
def test_one_derivative_alone_is_that_of_both(channels):
    rng = np.random.default_rng(channels)
    x, kernel = rng.normal(size=(2, 5, 4, channels)), rng.normal(size=(3, 3, channels, 4))
    weights = rng.normal(size=(2, 5, 4, 4))
    arrays = [jnp.asarray(each, jnp.float32) for each in (x, kernel)]
    _, *expected = _loop(x, kernel, weights)
    for which, wanted in enumerate(expected):
        gradient = jax.grad(lambda *both: (weights * convolve(*both)).sum(), which)
        np.testing.assert_allclose(gradient(*arrays), wanted, rtol=1e-4, atol=1e-5)
        stacked = [jnp.stack([each, 2 * each]) for each in arrays]
        each_alone = jax.vmap(gradient)(*stacked)
        np.testing.assert_allclose(each_alone[1], 2 * wanted, rtol=1e-4, atol=1e-5)


def test_every_form_is_a_setting():
    assert pretrain.Saib.conv3x3.rule == FORMS
