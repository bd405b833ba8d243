"""The matrix product of the losses, in full float32 on every device and under every setting."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32


def product(a: Float32[Array, "..."], b: Float32[Array, "..."]) -> Float32[Array, "..."]:
    """Returns a @ b without rounding the factors first, in the value and in its gradients.

    A plain `@` leaves the precision to the accelerator and to `jax.default_matmul_precision`: TF32
    (10 bits of mantissa) on an NVIDIA GPU, bfloat16 (7 bits) on a TPU. That is too coarse for
    cosines near 1 and covariances near 0.

    Args:
      a: [..., n, k], or a vector [k].
      b: [..., k, m], or a vector [k].

    Returns:
      The product, with the shape of `a @ b`.
    """
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
