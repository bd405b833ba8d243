"""Singular values of SAIB's Jacobian: all of them, or their distribution by Lanczos quadrature.

SAIB with fixed BN statistics maps each group of g images to itself, so the Jacobian of a batch is
block-diagonal and a group's block is square, n x n with n = g * H * W * C. log|det J| is the
increment of differential entropy (Eq. 12).
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
    """A weighted sample of singular values, the mean over probes of a distribution.

    Attributes:
      values: singular values, float32 [probes, k], descending; arrays of JAX or NumPy.
      weights: of each, float32 [probes, k]; a probe's sum to 1.
    """

    values: Any
    weights: Any


def lanczos(
    fn: Map, x: jax.Array, key: jax.Array, *, depth: int, num_probes: int
) -> tuple[Spectrum, Spectrum]:
    """Stochastic Lanczos quadrature of the Jacobian J of fn at x, from products with J and J'.

    Golub-Kahan bidiagonalisation of J from a random sign vector v, which is Lanczos on J'J without
    squaring the condition number. Its singular values and the squared first entries of the right
    singular vectors are the nodes and weights of a Gauss rule: sum w f(sigma^2) estimates
    v'f(J'J)v / n, whose expectation is tr f(J'J) / n. The largest value is a lower bound of
    sigma_max(J), the smallest an upper bound of sigma_min(J). A Gauss rule never underestimates
    log: what is still missing at `depth` steps makes log|det J| too large, most where singular
    values are near 0.

    Args:
      fn: x -> an array of x's shape.
      x: float32, any shape with n >= `depth` entries.
      key: typed PRNG key of the probes.
      depth: products with each of J and J' a probe takes; memory is 2 * depth * n floats.
      num_probes: random vectors, taken one after another.

    Returns:
      The spectrum after `depth` steps, and that after half of them: how far log|det J| falls
      between the two says how far it has converged.

    Raises:
      ValueError: `depth` is more than n.

    Reference: Ubaru, Chen & Saad 2017; Golub & Kahan 1965.
    """
    if depth > x.size:
        raise ValueError(f"Lanczos depth {depth} is more than the {x.size} dimensions of a group.")
    bidiagonalise = decomp.bidiag(depth, reortho="full")

    def spectrum(small: jax.Array) -> Spectrum:
        # Where Krylov space ends early (J = c I), what follows is 0 / 0 and gets the weight 0.
        filler = small[0, 0] * jnp.eye(len(small))
        _, values, right = jnp.linalg.svd(jnp.where(jnp.isnan(small), filler, small))
        return Spectrum(values, jnp.square(right[:, 0]))

    def probe(key: jax.Array) -> tuple[Spectrum, Spectrum]:
        start = jax.random.rademacher(key, x.shape, jnp.float32)
        small = bidiagonalise(lambda v: jax.jvp(fn, (x,), (v,))[1], start).J_small
        half = max(1, depth // 2)
        return spectrum(small), spectrum(small[:half, :half])

    with jax.default_matmul_precision("highest"):  # float32 on GPUs too, not TF32
        return jax.lax.map(probe, jax.random.split(key, num_probes))


def exact(fn: Map) -> Callable[[jax.Array], Spectrum]:
    """x -> all n singular values of the Jacobian of fn at x, one "probe" of equal weights.

    n forward-mode products and an SVD: for n up to a few thousand.
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
    """(log|det J| / n, its standard error over probes), nats per dimension.

    The error is that of the random vectors alone, not of the depth of `lanczos`, which only adds; a
    single probe, such as an exact spectrum's, has none (nan). A singular value of 0 gives -inf.
    """
    values, weights = (np.asarray(part, np.float64) for part in spectrum)
    with np.errstate(divide="ignore"):
        per_probe = [float(w @ np.log(v)) for v, w in zip(values, weights, strict=True)]
    error = (
        np.std(per_probe, ddof=1) / math.sqrt(len(per_probe)) if len(per_probe) > 1 else math.nan
    )
    return float(np.mean(per_probe)), float(error)


def share_below_one(spectrum: Spectrum) -> float:
    """Share of the singular values below 1, in which the map contracts."""
    values, weights = (np.asarray(part, np.float64) for part in spectrum)
    return float(weights[values < 1].sum() / weights.sum())
