"""The memory of the embeddings that an epoch has computed, one per training image and view."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.models import collectives


def init(views: int, images: int, dim: int) -> dict[str, Array]:
    """Returns a memory without any image.

    It is {"embeddings": float32 [views, images, dim], "filled": bool [images]}.
    """
    return {
        "embeddings": jnp.zeros((views, images, dim), jnp.float32),
        "filled": jnp.zeros(images, bool),
    }


def write(
    memory: Any,
    index: Int32[Array, "b"],
    embeddings: Float32[Array, "V b d"],
    axis_name: str | None,
) -> dict[str, Array]:
    """Returns the memory with the embeddings of the images of all devices.

    The embeddings are normalised and get no gradient. An `index` is the number of an image in the
    training split; it occurs once in a batch.
    """
    rows = l2_normalize(jax.lax.stop_gradient(embeddings)).swapaxes(0, 1)
    index, rows = collectives.gather(index, axis_name), collectives.gather(rows, axis_name)
    return {
        "embeddings": memory["embeddings"].at[:, index].set(rows.swapaxes(0, 1)),
        "filled": memory["filled"].at[index].set(True),
    }


def emptied(memory: Any) -> dict[str, Array]:
    """Returns the memory for the next epoch, in which no image counts as filled yet."""
    return memory | {"filled": jnp.zeros_like(memory["filled"])}
