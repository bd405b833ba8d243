"""The queue of earlier embeddings: negatives (MoCo), neighbours (NNCLR), more to assign (SwAV)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float32, Key

from iecl_jax.config.rules import multiple
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods.parts.method import Scalar, Step
from iecl_jax.models import collectives


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError unless the length of the queue is a multiple of the batch size."""
    size, batch = config.method.queue_size, config.train.batch_size
    multiple("method.queue_size", size, batch, "images of a step")


def init(key: Key[Array, ""], size: int, dim: int) -> dict[str, Array]:
    """Returns a queue of random unit rows.

    It is {"keys": float32 [size, dim], "next": the index of the oldest row, int32}.
    """
    rows = l2_normalize(jax.random.normal(key, (size, dim)))
    return {"keys": rows, "next": jnp.zeros((), jnp.int32)}


def empty(size: int, dim: int) -> dict[str, Array]:
    """Returns a queue of zeros, of which `is_full` tells when embeddings have replaced them all."""
    return {"keys": jnp.zeros((size, dim)), "next": jnp.zeros((), jnp.int32)}


def is_full(queue: Any) -> Bool[Array, ""]:
    """Returns whether embeddings have filled a queue that began `empty`."""
    return (queue["keys"][-1] != 0).any()  # Rows enter from the first to the last.


def enqueue(
    queue: Any, embeddings: Float32[Array, "b d"], axis_name: str | None
) -> dict[str, Array]:
    """Returns the queue with the embeddings of all devices in the place of the oldest rows.

    The embeddings are normalised, get no gradient, and enter in global order.
    """
    embeddings = jax.lax.stop_gradient(embeddings)
    rows = collectives.gather(l2_normalize(embeddings), axis_name)
    # The queue's length is a multiple of the batch (`check`), so the slice never wraps around.
    keys = jax.lax.dynamic_update_slice_in_dim(queue["keys"], rows, queue["next"], axis=0)
    return {"keys": keys, "next": (queue["next"] + len(rows)) % len(keys)}


def epochs(config: ml_collections.ConfigDict, num_images: int) -> Callable[[Step], Scalar]:
    """Returns the function from a step to the age of the queue's oldest embedding, in epochs.

    It grows until the queue is full. Above 1, the queue holds earlier embeddings of the same image.
    """
    size, batch = config.method.queue_size, config.train.batch_size

    def age(step: Step) -> Scalar:
        return jnp.minimum(step.astype(jnp.float32) * batch, size) / num_images

    return age


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns a sentence if `queue_epochs`, the value of `epochs`, is above 1."""
    age = metrics.get("queue_epochs", 0.0)
    if age <= 1:
        return []
    return [
        f"queue_epochs is {age:.3g}: the queue holds earlier embeddings of the same image, which "
        f"are its neighbours; lower method.queue_size={config.method.queue_size} to the number of "
        "images or less."
    ]
