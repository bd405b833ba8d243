"""InfoNCE and SoftNCE against the keys of all devices."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from iecl_jax.losses import contrastive, soft_contrastive
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
    keys, positives = _of_all_devices(keys, axis_name, negatives)
    return contrastive.info_nce(
        anchors,
        keys,
        positives,
        temperature=temperature,
        negatives=negatives,
    )


def soft_nce(
    anchors: Float32[Array, "b d"],
    keys: Float32[Array, "b d"],
    *,
    temperature: float,
    mass: float | Scalar,
    shares: Sequence[float],
    axis_name: str | None,
    negatives: Float32[Array, "K d"] | None = None,
) -> tuple[Scalar, Scalar, Scalar]:
    """Returns (loss, top1, positive_share) of SoftNCE, see `losses.soft_contrastive`.

    The positive and the other keys are those of `info_nce`.
    """
    keys, positives = _of_all_devices(keys, axis_name, negatives)
    return soft_contrastive.soft_nce(
        anchors,
        keys,
        positives,
        temperature=temperature,
        mass=mass,
        shares=shares,
        negatives=negatives,
    )


def _of_all_devices(
    keys: Float32[Array, "b d"], axis_name: str | None, negatives: Float32[Array, "K d"] | None
) -> tuple[Float32[Array, "B d"], Int[Array, "b"]]:
    """Returns the keys to compare with, and the row of each image's own key.

    With negatives, the keys of other devices are not needed.
    """
    if negatives is not None:
        return keys, jnp.arange(len(keys))
    return collectives.gather(keys, axis_name), collectives.places(len(keys), axis_name)
