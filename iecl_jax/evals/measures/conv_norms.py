"""Spectral norms of an encoder's convolutions: as matrices, and as operators on images.

Spectral normalisation divides by the norm of the kernel as a [kh * kw * in, out] matrix (Eq. 17),
so that is the norm it bounds, by 1. How much a convolution can stretch an image is its operator
norm, which this bounds only by sqrt(kh * kw): 3 for a 3x3 kernel, 7 for a 7x7 one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from iecl_jax.losses.product import product
from iecl_jax.models.conv import Conv, power_iteration

ITERATIONS = 20


def matrix_norm(kernel: jax.Array, *, iterations: int = ITERATIONS) -> jax.Array:
    """Largest singular value of a kernel [kh, kw, in, out] as a [kh * kw * in, out] matrix.

    The convolution takes the patch of a pixel through this matrix. See `operator_norm` for
    `iterations` and accuracy.

    Returns:
      float32 scalar >= 0.
    """
    return operator_norm(kernel.reshape(1, 1, -1, kernel.shape[-1]), 1, 1, iterations=iterations)


def operator_norm(
    kernel: jax.Array, height: int, width: int, *, iterations: int = ITERATIONS
) -> jax.Array:
    """Largest |K * x| / |x| over images x [height, width, in], for circular convolution, stride 1.

    The Fourier transform turns circular convolution into one in x out matrix a frequency, the
    transform of the kernel there, so its singular values are those of these matrices (Sedghi, Gupta
    & Long 2019). Taps beyond the grid wrap around it. Half of the frequencies suffice: the others
    hold complex conjugates.

    What is known of it:
    - it is at most sqrt(kh * kw) times the matrix norm (Tsuzuku et al. 2018), as every pixel stands
      in kh * kw patches, and at least the matrix norm where the kernel fits into the grid;
    - a stride keeps some pixels of the output, so the strided norm is no larger;
    - zero padding of the same size is circular convolution on a grid larger by kh - 1 and kw - 1,
      of images that are 0 on the added pixels, cropped: its norm is at most the norm on that grid.

    Args:
      kernel: float [kh, kw, in, out].
      height: rows of the grid.
      width: columns of the grid.
      iterations: Lanczos steps on A^H A, all frequencies at once, each costing two products with
        the kernel. The estimate is a lower bound, within float32 rounding, and exact from
        min(in, out) steps. With 20 it was 0.1 % low at most on random kernels of up to 512 channels
        (and matrices of 2048 x 2048), whose leading singular values lie close together, and right
        to six digits where one of them leads.

    Returns:
      float32 scalar >= 0.
    """
    if kernel.shape[2] > kernel.shape[3]:
        kernel = kernel.swapaxes(2, 3)  # transposes every A, to iterate on the smaller side
    kh, kw, channels, features = kernel.shape
    matrix = kernel.astype(jnp.float32).reshape(-1, features)
    angle = _angles(height, kh)[:, None, :, None] + _angles(width, kw)[None, : width // 2 + 1, None]
    angle = angle.reshape(-1, kh * kw, 1)  # [frequencies, taps, 1]
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def gram(v: jax.Array) -> jax.Array:
        """A^H A v at every frequency; v [2, frequencies, in], real and imaginary parts."""
        patches = _rotate(v[:, :, None], cos, sin)
        through = product(patches.reshape(-1, kh * kw * channels), matrix)
        return _rotate(product(through, matrix.T).reshape(patches.shape), cos, -sin).sum(2)

    draw = np.random.default_rng(0).standard_normal((2, 1, channels), np.float32)
    start = jnp.broadcast_to(draw, (2, len(angle), channels))
    return jnp.sqrt(_largest_eigenvalue(gram, start, min(iterations, channels)))


def _angles(size: int, taps: int) -> jax.Array:
    """float32 [size, taps]: angle of frequency f at tap t, 2 pi f t / size, reduced in integers."""
    turns = np.outer(np.arange(size), np.arange(taps)) % size / size
    return jnp.asarray(2 * np.pi * turns, jnp.float32)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Multiplies x [2, ...] (real, imaginary) by cos + i sin."""
    return jnp.stack([cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]])


def _largest_eigenvalue(gram: Any, start: jax.Array, iterations: int) -> jax.Array:
    """Of Hermitian positive matrices, one for each f of v [2, f, n] -> gram(v), by Lanczos."""

    def unit(v: jax.Array) -> tuple[jax.Array, jax.Array]:
        norm = jnp.sqrt(jnp.square(v).sum((0, 2), keepdims=True))
        return v / jnp.maximum(norm, 1e-18), norm

    def step(carry, _):
        v, previous, beta = carry
        w = gram(v) - beta * previous
        alpha = (v * w).sum((0, 2), keepdims=True)
        following, next_beta = unit(w - alpha * v)
        return (following, v, next_beta), (alpha[0, :, 0], next_beta[0, :, 0])

    v, norm = unit(start)
    carry = v, jnp.zeros_like(v), jnp.zeros_like(norm)
    _, (alphas, betas) = jax.lax.scan(step, carry, length=iterations)
    return _bisect(alphas, jnp.square(betas[:-1]))


def _bisect(diagonal: jax.Array, beside: jax.Array) -> jax.Array:
    """Largest eigenvalue of tridiagonal matrices, one for each f, from below.

    x is above all eigenvalues of T exactly if each pivot of x I - T is positive. LAPACK is no
    choice here: its batched calls wait for the threads that they run on (jaxlib 0.10.2), so that
    several in one program can wait for ever.

    Args:
      diagonal: [n, f].
      beside: [n - 1, f], squares of the off-diagonal.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        pivot = middle - diagonal[0]
        above = pivot > 0
        for d, b in zip(diagonal[1:], beside, strict=True):
            pivot = middle - d - b / pivot
            above &= pivot > 0
        above = above.all()
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    sides = jnp.pad(jnp.sqrt(beside), ((1, 1), (0, 0)))
    bounds = diagonal.max(), (diagonal + sides[1:] + sides[:-1]).max()  # Gershgorin's circles
    return jax.lax.fori_loop(0, 26, halve, bounds)[0]


def encoder_norms(
    encode: Callable[[jax.Array], Any],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    *,
    image_size: int,
    iterations: int = ITERATIONS,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Both norms of every `Conv` of an encoder, on the grid of its input, as evaluation applies it.

    A spectral-normalised kernel is first divided by the sigma that an evaluation call divides by.
    Convolutions of the same shape and grid share a program, which runs once for each.

    Args:
      encode: images [1, S, S, 3] -> anything: an evaluation call of the encoder.
      params: the encoder's parameters.
      batch_stats: its batch statistics, with the u of spectral normalisation where that is on.
      image_size: S, pixels.
      iterations: see `operator_norm`.

    Returns:
      {"layer1_0/conv1": (matrix norm, operator norm), ...}: float32 scalars by the path of the
      module, in the order of the calls; {} of an encoder without convolutions.
    """
    groups: dict[tuple, dict[str, jax.Array]] = {}
    grids = input_grids(encode, image_size)
    for path, grid in grids.items():
        kernel, stats = params, batch_stats
        for name in path.split("/"):
            kernel, stats = kernel[name], stats.get(name, {})
        kernel = kernel["kernel"]
        if "u" in stats:
            kernel = kernel / power_iteration(kernel.reshape(-1, kernel.shape[-1]), stats["u"])[0]
        pointwise = kernel.shape[:2] == (1, 1)  # the same matrix at every frequency
        groups.setdefault((kernel.shape, None if pointwise else grid), {})[path] = kernel

    norms: dict[str, tuple[jax.Array, jax.Array]] = {}
    for (_, grid), kernels in groups.items():

        def both(kernel: jax.Array, grid=grid) -> tuple[jax.Array, jax.Array]:
            matrix = matrix_norm(kernel, iterations=iterations)
            if grid is None:
                return matrix, matrix
            return matrix, operator_norm(kernel, *grid, iterations=iterations)

        norms |= dict(zip(kernels, zip(*jax.lax.map(both, jnp.stack([*kernels.values()])))))
    return {path: norms[path] for path in grids}


def input_grids(encode: Callable[[jax.Array], Any], image_size: int) -> dict[str, tuple[int, int]]:
    """{path of a `Conv`: (height, width) of its input}; see `encoder_norms`. Computes shapes
    alone."""
    grids = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            grids["/".join(context.module.path)] = args[0].shape[1:3]
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(encode, images)
    return grids
