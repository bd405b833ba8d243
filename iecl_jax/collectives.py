"""Collectives over the devices of a pmapped step; with `axis_name=None` each is the identity."""

import jax
import jax.numpy as jnp


def gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Concatenates the leading axis over devices in global order: [b, ...] -> [B, ...].

    Differentiable: with every device computing the same loss of the gathered array, the mean over
    devices of the parameter gradients is the gradient of that loss.
    """
    return x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)


def mean(tree, axis_name: str | None):
    """Mean over devices of every leaf."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def places(batch_size: int, axis_name: str | None) -> jax.Array:
    """Places in the global batch of this device's `batch_size` images: int32 [b]."""
    local = jnp.arange(batch_size)
    return local if axis_name is None else local + batch_size * jax.lax.axis_index(axis_name)
