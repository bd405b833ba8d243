"""InfoNCE against the keys of all devices."""

import jax
import jax.numpy as jnp

from iecl_jax.losses import contrastive
from iecl_jax.models import collectives


def info_nce(
    anchors: jax.Array,
    keys: jax.Array,
    *,
    temperature: float,
    axis_name: str | None,
    negatives: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`losses.contrastive.info_nce` of this device's anchors [b, d], whose positives are its keys
    [b, d]; the other keys are those of all devices, or the queue's where `negatives` are given."""
    if negatives is None:
        positives = collectives.places(len(anchors), axis_name)
        keys = collectives.gather(keys, axis_name)
    else:
        positives = jnp.arange(len(anchors))
    return contrastive.info_nce(
        anchors,
        keys,
        positives,
        temperature=temperature,
        negatives=negatives,
    )
