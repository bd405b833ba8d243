"""The losses of Matrix-SSL: traces of the logarithm of covariance matrices.

The logarithm of a d x d matrix Q is its Taylor series at the identity, of `order` terms:

    log Q ~ sum over k = 1 ... order of (-1)^(k+1) (Q - I)^k / k

Rows have unit length and are centred, so a covariance C has eigenvalues from 0 to 1. With Q = C + I
the series converges; with another multiple of the identity it is still the series at I.

Only traces are needed. The trace of a product of two matrices is the sum of an element-wise
product, and tr((U'V)^k) = tr((VU')^k), so n rows of d > n dimensions take products of n x n.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product


def uniformity(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    *,
    identity: float = 1.0,
    order: int = 4,
    symmetric: bool = False,
) -> Float32[Array, ""]:
    """Returns the matrix uniformity -tr log(C + mu I) of two views of the same images.

    C = P' J Z / n is the cross-covariance of the views' unit rows P and Z, where J centres the
    rows. With mu = 1, the value is 0 at collapse, and it falls as the views agree and spread over
    more dimensions.

    Args:
      first: P, the embeddings of all devices, of any scale; computed in float32 whatever the type.
      second: Z, the embeddings of the same images in another view.
      identity: mu > 0.
      order: terms of the series, at least 1.
      symmetric: take (C + C') / 2 for C. C alone is not symmetric, and its trace is that of the
        series, not of a sum over eigenvalues.

    Returns:
      The value, which is not divided by d.

    Reference: Zhang et al. 2024, Eq. 18, where it is divided by d.
    """
    first, second = _centred(first), _centred(second)
    if symmetric:
        first, second = jnp.concatenate([first, second]), jnp.concatenate([second, first]) / 2
    _, d = first.shape
    # C = first' second, and second first' has the same powers' traces.
    wide = len(first) < d
    matrix = product(second, first.T) if wide else product(first.T, second)
    return -_log_trace(_traces(matrix, order), d, identity)


def alignment(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    *,
    identity: float = 1.0,
    order: int = 4,
) -> Float32[Array, ""]:
    """Returns the matrix alignment -tr((A + mu I) log(C + mu I)) of two views of the same images.

    A = P' J P / n and C = Z' J Z / n are the covariances of the views' unit rows P and Z.

    Args:
      first: P, the embeddings of all devices, of any scale; computed in float32 whatever the type.
      second: Z, the embeddings of the same images in another view.
      identity: mu > 0.
      order: terms of the series, at least 1.

    Reference: Zhang et al. 2024, Eq. 19. Its matrix cross-entropy also adds tr(C + mu I), which the
    authors' code leaves out, as this function does.
    """
    first, second = _centred(first), _centred(second)
    n, d = first.shape
    if n < d:
        matrix, cross = product(second, second.T), product(second, first.T)
        # tr(A C^k) = tr(X G^(k-1)) for the n x n matrices X = Z P' P Z' and G = Z Z'.
        moments = [(first * first).sum(), *_traces(matrix, order - 1, product(cross, cross.T))]
    else:
        matrix = product(second.T, second)
        moments = _traces(matrix, order, product(first.T, first))
    own = _log_trace(_traces(matrix, order), d, identity)
    return -_weighted(moments, identity) - identity * own


def _centred(rows: Float[Array, "n d"]) -> Float32[Array, "n d"]:
    """Returns the unit rows minus their mean, over sqrt(n)."""
    rows = l2_normalize(rows)
    return (rows - rows.mean(0, keepdims=True)) * len(rows) ** -0.5


def _traces(
    matrix: Float32[Array, "r r"], order: int, left: Float32[Array, "r r"] | None = None
) -> list[Float32[Array, ""]]:
    """Returns tr(L M^k) for k = 0 ... order, where L is `left`, or the identity."""
    half = max((order + 1) // 2, 1)
    powers = [matrix]
    while len(powers) < half:
        powers.append(product(powers[-1], matrix))
    # M^half, or L M^half, serves the upper half of the traces.
    if left is None:
        lower = [jnp.float32(len(matrix)), *map(jnp.trace, powers)]
        top = powers[-1]
    else:
        lower = [jnp.trace(left), *(_inner(left, power) for power in powers)]
        top = product(left, powers[-1]) if order > half else left
    upper = [_inner(top, power) for power in powers[: order - half]]
    return [*lower, *upper][: order + 1]


def _inner(a: Float32[Array, "r r"], b: Float32[Array, "r r"]) -> Float32[Array, ""]:
    """Returns tr(A B)."""
    return (a * b.T).sum()


def _log_trace(traces: list[Float32[Array, ""]], d: int, identity: float) -> Float32[Array, ""]:
    """Returns tr log(C + mu I) from tr C^k; d is the width of C, `traces[0]` may be another."""
    return _weighted([jnp.float32(d), *traces[1:]], identity)


def _weighted(moments: list[Float32[Array, ""]], identity: float) -> Float32[Array, ""]:
    """Returns the series of log(C + mu I) with moments[k] in the place of C^k."""
    step = np.polynomial.Polynomial([identity - 1, 1])  # C + mu I - I, in powers of C
    series = sum(((-1) ** (k + 1) / k) * step**k for k in range(1, len(moments)))
    weighted = [float(weight) * each for weight, each in zip(series.coef, moments, strict=True)]
    return sum(weighted[1:], weighted[0])
