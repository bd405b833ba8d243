"""InfoNCE against the keys of all devices."""

import jax

from iecl_jax import collectives
from iecl_jax.losses import contrastive


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
    return contrastive.info_nce(
        anchors,
        collectives.gather(keys, axis_name),
        collectives.places(len(anchors), axis_name),
        temperature=temperature,
        negatives=negatives,
    )
