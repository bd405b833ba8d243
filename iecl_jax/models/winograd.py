"""A 3x3 convolution by Winograd's algorithm F(4x4, 3x3), as dots: the fastest form on a CPU.

A tile of 4x4 outputs takes 36 products of numbers, where the direct sum takes 144. In matrices,
Y = A [(G K G') * (B D B')] A' for a kernel K [3, 3] and the 6x6 inputs D of a tile, where * is
elementwise. With channels, each of the 36 products is a matrix product over all tiles.

The matrices are those of Toom and Cook for the points 0, ±3/4, ±3/2 and infinity. With the usual
points (0, ±1, ±2), rounding errors would be twice as large.

Reference: Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32

TILE = 4  # outputs of a tile along an axis
_TAPS = 3
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


@jax.jit  # Convolutions of the same shape are then traced once.
def convolve(
    x: Float32[Array, "B H W C"], kernel: Float32[Array, "3 3 C F"]
) -> Float32[Array, "B H W F"]:
    """Convolves x with a kernel, with zero padding of one pixel and stride 1.

    Its error is that of rounding to float32, up to seven times that of the direct sum (a root mean
    square of 2.4e-6 of the values with 512 channels, docs/performance.md).
    """
    height, width, channels = x.shape[1:]
    to_outputs, of_taps, of_inputs = _matrices()
    # The barriers let XLA write each array once, for the forward and the backward pass. It would
    # otherwise repeat the sums inside each of their uses.
    barrier = jax.lax.optimization_barrier
    rows = barrier(jnp.stack(_sums(of_inputs, _inputs(barrier(x), axis=1))))
    inputs = _sums(of_inputs, _inputs(rows, axis=3))  # 6 of [6, B, h, w, C]
    taps = jnp.stack(_sums(of_taps, list(kernel)))
    kernels = _sums(of_taps, [taps[:, i] for i in range(_TAPS)])  # 6 of [6, C, F]
    inputs, kernels = barrier((inputs, kernels))
    products = barrier(
        [
            tiles.reshape(len(tiles), -1, channels) @ of_tiles
            for tiles, of_tiles in zip(inputs, kernels, strict=True)
        ]
    )
    products = [each.reshape(*rows.shape[:3], -1, kernel.shape[-1]) for each in products]
    rows = barrier(_interleaved(_sums(to_outputs, products), axis=3))
    y = _interleaved(_sums(to_outputs, list(rows)), axis=1)
    return barrier(y[:, :height, :width])


@functools.cache
def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns A [4, 6], G [6, 3] and B [6, 6]."""
    points = np.array(_POINTS)
    others = [np.delete(points, i) for i in range(len(points))]
    powers = np.vander(points, TILE, increasing=True)
    scales = [np.prod(point - rest) for point, rest in zip(points, others, strict=True)]
    polynomials = [np.append(np.poly(rest)[::-1], 0) for rest in others]
    return (
        np.column_stack([powers.T, np.eye(TILE)[-1]]),
        np.vstack([powers[:, :_TAPS] / np.array(scales)[:, None], np.eye(_TAPS)[-1]]),
        np.vstack([*polynomials, np.poly(points)[::-1]]),
    )


def _sums(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
    """Returns the sum of the arrays, weighted by a row of the matrix, for each row."""
    terms = ([np.float32(w) * part for w, part in zip(row, parts) if w] for row in matrix)
    return [functools.reduce(operator.add, each) for each in terms]


def _inputs(x: jax.Array, axis: int) -> list[jax.Array]:
    """Returns the inputs of all tiles along an axis: their pixels, the one before and after them.

    What a last tile lacks is zero. The axis becomes one of tiles.
    """
    tiles = -(-x.shape[axis] // TILE)
    lacking = tiles * TILE - x.shape[axis]
    x = jnp.pad(x, [(0, lacking if i == axis else 0) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], tiles, TILE, *x.shape[axis + 1 :])
    pixels = [jax.lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in range(TILE)]
    return [_shifted(pixels[-1], axis, 1), *pixels, _shifted(pixels[0], axis, -1)]


def _shifted(x: jax.Array, axis: int, by: int) -> jax.Array:
    """Moves x along an axis by one tile, forwards (1) or backwards (-1); zeros come in."""
    padding = [(by, -by, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    return jax.lax.pad(x, np.float32(0), padding)


def _interleaved(pixels: Sequence[jax.Array], axis: int) -> jax.Array:
    """Makes an axis of tiles one of pixels, from each pixel of all tiles."""
    x = jnp.stack(pixels, axis + 1)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
