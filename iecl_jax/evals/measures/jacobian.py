"""Singular values of SAIB's Jacobian J: all of them, or their distribution by Lanczos quadrature.

With fixed BN statistics, SAIB maps each group of g images independently of the others. The Jacobian
of a batch is therefore block-diagonal, and the block of a group is square: n x n with
n = g * H * W * C. log|det J| is the increment of the differential entropy (Eq. 12).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matfree import decomp

Map = Callable[[jax.Array], jax.Array]


class Spectrum(NamedTuple):
    """A distribution of singular values: the mean over probes of weighted samples.

    Attributes:
      values: singular values, float32 [probes, k], descending; JAX or NumPy arrays.
      weights: their weights, float32 [probes, k]; the weights of a probe sum to 1.
    """

    values: Any
    weights: Any


def lanczos(
    fn: Map, x: jax.Array, key: jax.Array, *, depth: int, num_probes: int
) -> tuple[Spectrum, Spectrum]:
    """Estimates the singular values of the Jacobian J of fn at x by stochastic Lanczos quadrature.

    For each probe, a random sign vector v, it runs Golub-Kahan bidiagonalisation of J, which needs
    only products with J and J'. That is Lanczos on J'J without squaring the condition number. The
    singular values of the bidiagonal matrix and the squared first entries of its right singular
    vectors are the nodes and weights of a Gauss rule: sum w f(sigma^2) estimates v'f(J'J)v / n,
    whose expectation is tr f(J'J) / n.

    The largest node is a lower bound of sigma_max(J), the smallest an upper bound of sigma_min(J).
    A Gauss rule never underestimates the logarithm. With too few steps log|det J| is therefore too
    large, most of all where singular values are near 0.

    Args:
      fn: x -> an array with x's shape.
      x: float32, any shape, n >= `depth` entries.
      key: a typed PRNG key for the probes.
      depth: Lanczos steps: products of a probe with J, and with J'. Needs 2 * depth * n floats.
      num_probes: number of random vectors; they run one after another.

    Returns:
      (spectrum after `depth` steps, spectrum after half of them). The difference of log|det J|
      between the two shows how far it has converged.

    Raises:
      ValueError: `depth` is more than n.

    Reference: Ubaru, Chen & Saad 2017; Golub & Kahan 1965.
    """
    if depth > x.size:
        raise ValueError(f"Lanczos depth {depth} is more than the {x.size} dimensions of a group.")
    bidiagonalise = decomp.bidiag(depth, reortho="full")

    def spectrum(small: jax.Array) -> Spectrum:
        # If the Krylov space ends early (as for J = c I), the remaining rows are 0 / 0. The filler
        # is decoupled from the first row, so its nodes get the weight 0.
        filler = small[0, 0] * jnp.eye(len(small))
        _, values, right = jnp.linalg.svd(jnp.where(jnp.isnan(small), filler, small))
        return Spectrum(values, jnp.square(right[:, 0]))

    def probe(key: jax.Array) -> tuple[Spectrum, Spectrum]:
        start = jax.random.rademacher(key, x.shape, jnp.float32)
        small = bidiagonalise(lambda v: jax.jvp(fn, (x,), (v,))[1], start).J_small
        half = max(1, depth // 2)
        return spectrum(small), spectrum(small[:half, :half])

    with jax.default_matmul_precision("highest"):  # GPUs would use TF32.
        return jax.lax.map(probe, jax.random.split(key, num_probes))


def exact(fn: Map) -> Callable[[jax.Array], Spectrum]:
    """Returns a function that computes all n singular values of the Jacobian of fn at x.

    It takes n forward-mode products and an SVD, so it suits n up to a few thousand. The spectrum
    has one probe with equal weights.
    """
    jacobian = jax.jit(jax.jacfwd(fn))

    def spectrum(x: jax.Array) -> Spectrum:
        with jax.default_matmul_precision("highest"):
            matrix = np.asarray(jacobian(x), np.float64).reshape(x.size, x.size)
        values = np.linalg.svd(matrix, compute_uv=False)
        weights = np.full_like(values, 1 / len(values))
        return Spectrum(values[None].astype(np.float32), weights[None].astype(np.float32))

    return spectrum


def log_det(spectrum: Spectrum) -> tuple[float, float]:
    """Returns (log|det J| / n, its standard error over the probes), in nats per dimension.

    The standard error covers the choice of the random vectors, not the positive error of a small
    `depth` in `lanczos`. It is nan for a single probe, such as that of an exact spectrum. A
    singular value of 0 gives log|det J| = -inf.
    """
    values, weights = (np.asarray(part, np.float64) for part in spectrum)
    with np.errstate(divide="ignore"):
        per_probe = [float(w @ np.log(v)) for v, w in zip(values, weights, strict=True)]
    error = (
        np.std(per_probe, ddof=1) / math.sqrt(len(per_probe)) if len(per_probe) > 1 else math.nan
    )
    return float(np.mean(per_probe)), float(error)


def share_below_one(spectrum: Spectrum) -> float:
    """Returns the share of the singular values below 1: directions in which the map contracts."""
    values, weights = (np.asarray(part, np.float64) for part in spectrum)
    return float(weights[values < 1].sum() / weights.sum())
