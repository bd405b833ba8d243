"""InfoNCE against the keys of all devices."""

import jax.numpy as jnp
from jaxtyping import Array, Float32

from iecl_jax.losses import contrastive
from iecl_jax.methods.parts.method import Scalar
from iecl_jax.models import collectives


def info_nce(
    anchors: Float32[Array, "b d"],
    keys: Float32[Array, "b d"],
    *,
    temperature: float,
    axis_name: str | None,
    negatives: Float32[Array, "K d"] | None = None,
) -> tuple[Scalar, Scalar]:
    """Returns (loss, top1) of InfoNCE for this device's anchors, see `losses.contrastive`.

    The positive of an anchor is the key in the same row. The other keys are those of all devices,
    or the `negatives` if they are given.
    """
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
