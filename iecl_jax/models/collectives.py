"""Collectives over the devices of a pmapped step.

With `axis_name=None`, and on an axis of one device, `gather` and `mean` return their argument and
add nothing to the program.
"""

import itertools

import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32


def gather(tree, axis_name: str | None, *, devices: int = 0):
    """Concatenates the leading axis of every leaf over devices: [b, ...] -> [B, ...].

    The rows come in global order. All leaves must have the same dtype, because they are sent as one
    array. The function is differentiable: if every device computes the same loss from the gathered
    arrays, the mean over devices of the parameter gradients is the gradient of that loss.

    Args:
      tree: arrays.
      axis_name: the axis of the devices.
      devices: number of consecutive devices that share their rows; 0 = all of them.
    """
    if _alone(axis_name) or devices == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    rows = [leaf.reshape(len(leaf), -1) for leaf in leaves]
    sent = rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)
    total = jax.lax.axis_size(axis_name)
    groups = [list(range(i, i + devices)) for i in range(0, total, devices)] if devices else None
    gathered = jax.lax.all_gather(sent, axis_name, tiled=True, axis_index_groups=groups)
    ends = list(itertools.accumulate(row.shape[1] for row in rows))
    parts = jnp.split(gathered, ends[:-1], axis=1)
    shaped = [part.reshape(-1, *leaf.shape[1:]) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def mean(tree, axis_name: str | None):
    """Returns the mean of every leaf over devices.

    All leaves must have the same dtype, because they are sent as one array. So there is exactly one
    all-reduce; with one per leaf, their number would depend on the backend's combiner.
    """
    if _alone(axis_name):
        return tree
    total = jax.lax.axis_size(axis_name)
    flat, restore = jax.flatten_util.ravel_pytree(tree)
    return jax.tree.map(lambda leaf: leaf / total, restore(jax.lax.psum(flat, axis_name)))


def mean_count(counted: Bool[Array, "b ..."], axis_name: str | None) -> Float32[Array, "..."]:
    """Returns the mean over devices of the number of True rows, or 1e-6 if none is True.

    What each device sums over its True rows and divides by this has as its mean over devices the
    mean over the True rows of all devices, however they are spread.
    """
    return jnp.maximum(mean(counted.astype(jnp.float32).sum(0), axis_name), 1e-6)


def places(batch_size: int, axis_name: str | None) -> Int32[Array, "{batch_size}"]:
    """Returns the places in the global batch of the `batch_size` images of this device."""
    local = jnp.arange(batch_size)
    return local if axis_name is None else local + batch_size * jax.lax.axis_index(axis_name)


def _alone(axis_name: str | None) -> bool:
    return axis_name is None or jax.lax.axis_size(axis_name) == 1
