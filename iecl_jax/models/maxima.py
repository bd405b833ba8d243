"""ReLU and max-pooling, with derivatives that read and write few bytes on a GPU."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

_WINDOW = list(itertools.product(range(3), range(3)))


@jax.custom_jvp
def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns max(x, 0)."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _(primals, tangents):
    y = relu(*primals)
    # Not x > 0: the backward pass would compute x again, from all that it is a sum of, while y is
    # in memory. XLA takes y > 0 for x > 0.
    return y, jnp.where(y != 0, tangents[0], 0)


@jax.custom_jvp
def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B _ _ C"]:
    """Returns the maxima of windows of 3x3 pixels with stride 2 and a padding of one pixel."""
    return nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])


@max_pool.defjvp
def _(primals, tangents):
    # The derivative of a window is that of its first maximum. XLA's select-and-scatter finds it in
    # the backward pass again, with positions of four bytes.
    (x,), (dx,) = primals, tangents
    y, place = _maxima(x)
    wide = dx.astype(jnp.float32)
    chosen = (jnp.where(place == k, each, 0) for k, each in enumerate(_pixels(wide, 0.0)))
    return y, sum(chosen, jnp.zeros(())).astype(y.dtype)


def _maxima(
    x: Float[Array, "B H W C"],
) -> tuple[Float[Array, "B h w C"], UInt8[Array, "B h w C"]]:
    """Returns the maximum of each window, and its first place in the window."""
    first, *others = _pixels(x, -jnp.inf)
    y, place = first, jnp.zeros(first.shape, jnp.uint8)
    for k, each in enumerate(others, 1):
        place = jnp.where(each > y, jnp.uint8(k), place)
        y = jnp.maximum(y, each)
    return y, place


def _pixels(x: Float[Array, "B H W C"], outside: float) -> Iterator[Float[Array, "B h w C"]]:
    """Returns, for each place in a window, the pixels there of all windows."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=outside)
    for i, j in _WINDOW:
        yield padded[:, i : i + height : 2, j : j + width : 2]
