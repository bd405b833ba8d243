"""How well two clusterings of the same images agree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32


def normalized_mutual_information(
    first: Int32[Array, "n"], second: Int32[Array, "n"], counted: Bool[Array, "n"]
) -> Float32[Array, ""]:
    """Returns I(U, V) / ((H(U) + H(V)) / 2) of two labellings, from 0 to 1.

    DeepCluster (Caron et al. 2018, Eq. 3) measures by it how far the clusters of two epochs agree;
    their divisor is the geometric mean of the entropies. Here it is the arithmetic one, as in
    scikit-learn, and two labellings of one cluster agree: 1. The cells of the contingency table are
    the runs of equal pairs in sorted order, so no [K, K] table is made.

    Args:
      first, second: labels from 0 on.
      counted: the rows that are compared; without any, the result is 0.
    """
    total = counted.sum().astype(jnp.float32)
    nothing = jnp.zeros_like(first)

    def entropy(first, second):
        """Returns the entropy of the pairs of labels, in nats."""
        uncounted, first, second = jax.lax.sort((~counted, first, second), num_keys=3)
        starts = jnp.concatenate(
            [jnp.ones(1, bool), (first[1:] != first[:-1]) | (second[1:] != second[:-1])]
        )
        run = jnp.cumsum(starts) - 1
        sizes = jax.ops.segment_sum((~uncounted).astype(jnp.int32), run, len(run))
        share = sizes.astype(jnp.float32) / jnp.maximum(total, 1)
        return -(share * jnp.log(jnp.where(sizes > 0, share, 1.0))).sum()

    of_first, of_second = entropy(first, nothing), entropy(second, nothing)
    shared = of_first + of_second - entropy(first, second)
    both = of_first + of_second
    value = jnp.where(both > 0, 2 * shared / jnp.where(both > 0, both, 1.0), 1.0)
    return jnp.where(total > 0, jnp.clip(value, 0.0, 1.0), 0.0)
