"""k-means by Lloyd's iterations on rows in blocks: Euclidean, or spherical (DeepCluster-v2)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32, Key

from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product

BLOCK = 2**24  # entries of the largest [rows, K] array: 64 MB
SPLIT = 1 / 1024  # relative distance of the halves of a split cluster, as in faiss


def fit(
    rows: Float32[Array, "n d"],
    centroids: Float32[Array, "K d"],
    *,
    iterations: int,
    spherical: bool = False,
    counted: Bool[Array, "n"] | None = None,
    refill: Key[Array, ""] | None = None,
) -> tuple[Float32[Array, "K d"], Int32[Array, "n"]]:
    """Clusters rows (Lloyd 1982), all in full float32.

    An iteration assigns each row to its nearest centroid, the lowest one of equals, and moves each
    centroid to the mean of its rows. The sums are matrix products and no scattered additions, whose
    order would differ from run to run on a GPU.

    Args:
      rows: what is clustered; of unit length if `spherical`.
      centroids: the initial ones; of unit length if `spherical`.
      iterations: how often the centroids are moved.
      spherical: the nearest centroid is that of the largest product instead of the smallest
        distance, and centroids are scaled to unit length (Caron et al. 2020, appendix D).
      counted: the rows that take part; None = all.
      refill: a key. With it, each cluster that lost its rows gets half of another one, which is
        drawn in proportion to its size minus 1 (faiss). Without it, such a centroid stays where it
        is.

    Returns:
      (centroids, labels): the moved centroids, and the nearest of them for each row, or -1 for a
      row that takes no part.
    """
    number, size = len(rows), block_size(len(rows), len(centroids))
    counted = jnp.ones(number, bool) if counted is None else counted
    blocks = _in_blocks(rows, size), _in_blocks(counted, size)

    def label(block):
        block_rows, block_counted = block
        found = nearest(block_rows, centroids, spherical=spherical)
        return jnp.where(block_counted, found, -1)

    def move(i, centroids):
        def add(totals, block):
            block_rows, block_counted = block
            found = nearest(block_rows, centroids, spherical=spherical)
            members = jax.nn.one_hot(jnp.where(block_counted, found, -1), len(centroids))
            sums, counts = totals
            return (
                sums + product(members.T, block_rows),
                counts + members.sum(0).astype(jnp.int32),
            ), None

        zeros = jnp.zeros_like(centroids), jnp.zeros(len(centroids), jnp.int32)
        (sums, counts), _ = jax.lax.scan(add, zeros, blocks)
        means = sums / jnp.maximum(counts, 1).astype(jnp.float32)[:, None]
        moved = jnp.where(
            (counts > 0)[:, None], l2_normalize(means) if spherical else means, centroids
        )
        return moved if refill is None else _refill(jax.random.fold_in(refill, i), moved, counts)

    centroids = jax.lax.fori_loop(0, iterations, move, centroids)
    return centroids, jax.lax.map(label, blocks).reshape(-1)[:number]


def nearest(
    rows: Float32[Array, "b d"], centroids: Float32[Array, "K d"], *, spherical: bool
) -> Int32[Array, "b"]:
    """Returns each row's nearest centroid; see `fit` for `spherical`."""
    closeness = product(rows, centroids.T)
    if not spherical:
        closeness = closeness - (centroids**2).sum(1)[None] / 2
    return closeness.argmax(1).astype(jnp.int32)


def draw(
    key: Key[Array, ""], rows: Float32[Array, "n d"], count: int, counted: Bool[Array, "n"]
) -> Float32[Array, "{count} d"]:
    """Returns `count` different rows that are counted, drawn uniformly.

    If fewer are counted, the others are rows that are not.
    """
    order = jnp.where(counted, jax.random.uniform(key, counted.shape), 2.0)
    return rows[jnp.argsort(order)[:count]]


def block_size(rows: int, clusters: int) -> int:
    """Returns the rows of a block, of which each is compared with all clusters at once."""
    return min(rows, math.ceil(BLOCK / clusters))


def _in_blocks(values: Array, size: int) -> Array:
    """Reshapes [n, ...] to [blocks, size, ...], filled up with zeros."""
    missing = -len(values) % size
    padded = jnp.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1))
    return padded.reshape(-1, size, *values.shape[1:])


def _refill(
    key: Key[Array, ""], centroids: Float32[Array, "K d"], counts: Int32[Array, "K"]
) -> Float32[Array, "K d"]:
    """Splits clusters of several rows until none is empty, or none has several."""
    signs = jnp.where(jnp.arange(centroids.shape[1]) % 2 == 0, SPLIT, -SPLIT)

    def unfinished(carry):
        _, _, counts = carry
        return (counts == 0).any() & (counts > 1).any()

    def split(carry):
        key, centroids, counts = carry
        key, drawing = jax.random.split(key)
        chances = jnp.maximum(counts - 1, 0).astype(jnp.float32)
        big, empty = jax.random.categorical(drawing, jnp.log(chances)), (counts == 0).argmax()
        halves = centroids[big] * (1 + signs), centroids[big] * (1 - signs)
        given = counts[big] // 2
        return (
            key,
            centroids.at[empty].set(halves[0]).at[big].set(halves[1]),
            counts.at[empty].set(given).at[big].add(-given),
        )

    return jax.lax.while_loop(unfinished, split, (key, centroids, counts))[1]
