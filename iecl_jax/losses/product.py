"""The matrix product of the losses: float32, whatever the device and the caller's settings."""

import jax
import jax.numpy as jnp


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b without rounding the factors first, in the value and in its gradients.

    A plain `@` leaves the precision to the accelerator and to `jax.default_matmul_precision`: TF32
    (10 bits of mantissa) on an NVIDIA GPU, bfloat16 (7 bits) on a TPU. Cosines near 1 and
    covariances near 0 do not survive that.

    Args:
      a: float32 [..., n, k], or a vector [k].
      b: float32 [..., k, m], or a vector [k].

    Returns:
      float32, of the shape of `a @ b`.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
