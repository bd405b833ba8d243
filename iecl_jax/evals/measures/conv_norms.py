"""Spectral norms of an encoder's convolutions: as matrices, and as operators on images.

Spectral normalisation (Eq. 17) divides a kernel by its norm as a [kh * kw * in, out] matrix, so it
bounds that norm by 1. The operator norm says how much a convolution can stretch an image. Spectral
normalisation only bounds it by sqrt(kh * kw): by 3 for a 3x3 kernel, by 7 for a 7x7 kernel.
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
    """Returns the largest singular value of a kernel [kh, kw, in, out] as a matrix.

    The matrix is [kh * kw * in, out]; the convolution multiplies the patch around each pixel by it.
    See `operator_norm` for `iterations` and the accuracy.

    Returns:
      float32 scalar >= 0.
    """
    return operator_norm(kernel.reshape(1, 1, -1, kernel.shape[-1]), 1, 1, iterations=iterations)


def operator_norm(
    kernel: jax.Array, height: int, width: int, *, iterations: int = ITERATIONS
) -> jax.Array:
    """Returns the largest |K * x| / |x| over images x, for circular convolution with stride 1.

    The Fourier transform turns a circular convolution into one [in, out] matrix per frequency: the
    transform of the kernel at that frequency. The singular values of the convolution are those of
    these matrices (Sedghi, Gupta & Long 2019). Taps beyond the grid wrap around. Half of the
    frequencies suffice: the matrices of the others are complex conjugates.

    Bounds:
    - The norm is at most sqrt(kh * kw) times the matrix norm (Tsuzuku et al. 2018), since every
      pixel is in kh * kw patches. It is at least the matrix norm if the kernel fits into the grid.
    - A stride drops pixels of the output, so the norm of a strided convolution is no larger.
    - A convolution with zero padding is a circular one on a grid larger by kh - 1 and kw - 1, whose
      input is 0 on the added pixels and whose output is cropped. So its norm is at most the norm on
      that larger grid.

    Args:
      kernel: float [kh, kw, in, out].
      height: rows of the grid, pixels.
      width: columns of the grid, pixels.
      iterations: Lanczos steps on A^H A, for all frequencies at once; each takes two products with
        the kernel. Up to float32 rounding, the result is a lower bound, and it is exact with
        min(in, out) steps or more. With 20 steps it was at most 0.1 % too low on random kernels of
        up to 512 channels and random matrices of 2048 x 2048, whose leading singular values lie
        close together. It was right to six digits where one singular value dominates.

    Returns:
      float32 scalar >= 0.
    """
    if kernel.shape[2] > kernel.shape[3]:
        kernel = kernel.swapaxes(2, 3)  # Transposes every A: Lanczos runs on the smaller side.
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
    """Returns 2 pi f t / size for frequency f and tap t, float32 [size, taps]."""
    # f t is reduced modulo `size` as an integer, so that large angles lose no digits.
    turns = np.outer(np.arange(size), np.arange(taps)) % size / size
    return jnp.asarray(2 * np.pi * turns, jnp.float32)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Multiplies x [2, ...] (real, imaginary) by cos + i sin."""
    return jnp.stack([cos * x[0] - sin * x[1], sin * x[0] + cos * x[1]])


def _largest_eigenvalue(gram: Any, start: jax.Array, iterations: int) -> jax.Array:
    """Returns the largest eigenvalues [f] of f Hermitian positive matrices, by Lanczos.

    `gram` multiplies v [2, f, n] (real, imaginary) by the f matrices.
    """

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
    """Returns the largest eigenvalue of each tridiagonal matrix, by bisection, rounded down.

    A number x is above all eigenvalues of T if and only if every pivot of x I - T is positive.
    LAPACK cannot be used here: in jaxlib 0.10.2 on the CPU, several batched LAPACK calls in one
    program can deadlock.

    Args:
      diagonal: [n, f].
      beside: [n - 1, f], squares of the off-diagonal elements.
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

    # 26 halvings reach the resolution of float32.
    sides = jnp.pad(jnp.sqrt(beside), ((1, 1), (0, 0)))
    bounds = diagonal.max(), (diagonal + sides[1:] + sides[:-1]).max()  # Gershgorin's bound
    return jax.lax.fori_loop(0, 26, halve, bounds)[0]


def encoder_norms(
    encode: Callable[[jax.Array], Any],
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    *,
    image_size: int,
    iterations: int = ITERATIONS,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns both norms of every `Conv` of an encoder, as evaluation applies it.

    The operator norm is that on the grid of the layer's input. A spectral-normalised kernel is
    first divided by the same sigma as in evaluation. Convolutions with the same shape and grid are
    compiled once.

    Args:
      encode: calls the encoder in evaluation mode on images [1, S, S, 3]; its result is not used.
      params: the encoder's parameters.
      batch_stats: the encoder's batch statistics, including the u of spectral normalisation.
      image_size: S, pixels.
      iterations: see `operator_norm`.

    Returns:
      {"layer1_0/conv1": (matrix norm, operator norm), ...}: float32 scalars by module path, in the
      order of the calls; {} for an encoder without convolutions.
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
        pointwise = kernel.shape[:2] == (
            1,
            1,
        )  # A 1x1 kernel has the same matrix at all frequencies.
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
    """Returns {path of a `Conv`: (height, width) of its input}. It only computes shapes.

    See `encoder_norms` for the arguments.
    """
    grids = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            grids["/".join(context.module.path)] = args[0].shape[1:3]
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    with nn.intercept_methods(record):
        jax.eval_shape(encode, images)
    return grids
