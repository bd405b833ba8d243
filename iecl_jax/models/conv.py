"""Convolution whose kernel can be divided by its largest singular value (spectral norm)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.product import product
from iecl_jax.models import initializers

_INIT_ITERATIONS = 15


def power_iteration(
    matrix: Float32[Array, "m n"], u: Float32[Array, "n"], num_iterations: int = 1
) -> tuple[Float32[Array, ""], Float32[Array, "n"]]:
    """Moves u towards the leading right singular vector of `matrix`; estimates its singular value.

    Args:
      matrix: whose largest singular value is sought.
      u: unit length; treated as a constant.
      num_iterations: >= 1.

    Returns:
      (sigma, u): sigma = v' M u with both vectors constant, so that its gradient is v u', exact at
      convergence; sigma never exceeds the true value.

    Reference: Miyato et al. 2018, Algorithm 1.
    """
    constant = jax.lax.stop_gradient(matrix)

    def iterate(_, u):
        return _unit(product(product(constant, u), constant))

    u = jax.lax.fori_loop(1, num_iterations, iterate, u)
    v = _unit(product(constant, u))
    u = _unit(product(v, constant))
    return product(v, product(matrix, u)), u


def _unit(x: Float32[Array, "n"]) -> Float32[Array, "n"]:
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(), 1e-24))


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k C F"], *, stride: int = 1
) -> Float[Array, "B _ _ F"]:
    """Convolution of x by a kernel, zero-padded by (k - 1) // 2.

    The barriers have the input, and the gradient of the output, computed once: XLA would repeat the
    chain of operations that makes them inside each of their uses.
    """
    size = kernel.shape[0]
    x = jax.lax.optimization_barrier(x)
    if size == 1:
        return jax.lax.optimization_barrier(x[:, ::stride, ::stride] @ kernel[0, 0])
    before = (size - 1) // 2
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(before, size - 1 - before)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return jax.lax.optimization_barrier(y)


class Conv(nn.Module):
    """`convolve` of x by a kernel of its own, without bias (torchvision's padding).

    With `spectral_norm` the kernel, seen as a [kh * kw * in, out] matrix in float32, is divided by
    its largest singular value sigma (eta = 1 of Eq. 17). `batch_stats` keeps u and sigma; a
    training call moves them by one power-iteration step, an evaluation call uses the same step and
    keeps nothing.
    """

    features: int
    kernel_size: int
    train: bool
    stride: int = 1
    spectral_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ {self.features}"]:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", initializers.he_fan_out, shape, jnp.float32)
        if self.spectral_norm:
            kernel = kernel / self._sigma(kernel.reshape(-1, self.features))
        return convolve(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride)

    def _sigma(self, matrix: Float32[Array, "m n"]) -> Float32[Array, ""]:
        u = self.variable("batch_stats", "u", self._initial_u, matrix)
        new_sigma, new_u = power_iteration(matrix, u.value)
        sigma = self.variable("batch_stats", "sigma", lambda: new_sigma)
        if self.train and not self.is_initializing():
            u.value, sigma.value = new_u, jax.lax.stop_gradient(new_sigma)
        return new_sigma

    def _initial_u(self, matrix: Float32[Array, "m n"]) -> Float32[Array, "n"]:
        u = jax.random.normal(self.make_rng("params"), (self.features,))
        return power_iteration(matrix, _unit(u), _INIT_ITERATIONS)[1]
