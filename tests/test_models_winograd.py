"""Winograd's algorithm against SciPy's sums in float64, and where it is used."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from iecl_jax.models import conv, winograd

SIZES = [(8, 12), (5, 7), (1, 2)]


def _correlated(x, kernel):
    """Sums x [B, H, W, C] times a kernel [3, 3, C, F] directly, in float64."""
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, np.float64(kernel))


def _arrays(size, channels=3, features=5):
    rng = np.random.default_rng(sum(size))
    shapes = (2, *size, channels), (3, 3, channels, features), (2, *size, features)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("size", SIZES)
def test_the_convolution_and_its_gradients_are_those_of_the_direct_sum(size):
    x, kernel, dy = _arrays(size)
    y, backward = jax.vjp(winograd.convolve, jnp.asarray(x), jnp.asarray(kernel))
    np.testing.assert_allclose(y, _correlated(x, kernel), atol=3e-5)

    dx, dkernel = backward(jnp.asarray(dy))
    flipped = kernel[::-1, ::-1].swapaxes(2, 3)
    np.testing.assert_allclose(dx, _correlated(dy, flipped), atol=3e-5)
    padded = np.pad(np.float64(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [
        [
            scipy.signal.correlate(padded[..., c], np.float64(dy[..., f]), "valid")[0]
            for f in range(dy.shape[-1])
        ]
        for c in range(x.shape[-1])
    ]
    np.testing.assert_allclose(dkernel, np.array(expected).transpose(2, 3, 0, 1), atol=1e-4)


def test_it_has_a_derivative_in_forward_mode_for_many_images():
    x, kernel, _ = _arrays((4, 6))

    def change(dx):
        return jax.jvp(lambda x: winograd.convolve(x[None], kernel)[0], (x[0],), (dx,))[1]

    np.testing.assert_allclose(jax.vmap(change)(jnp.asarray(x)), _correlated(x, kernel), atol=3e-5)


@pytest.mark.parametrize(
    ("platform", "channels", "dtype", "direct"),
    [
        ("cpu", 64, jnp.float32, False),
        ("cpu", 32, jnp.float32, True),
        ("cpu", 64, jnp.bfloat16, True),
        ("cuda", 64, jnp.float32, True),
    ],
)
def test_only_a_cpu_uses_it_and_for_many_channels_in_float32(platform, channels, dtype, direct):
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape in ((2, 8, 8, channels), (3, 3, channels, channels))
    ]
    exported = jax.export.export(jax.jit(conv.convolve), platforms=[platform])(*arrays)
    assert ("stablehlo.convolution" in exported.mlir_module()) == direct
