"""The similarity of paired embeddings, for methods without negatives."""

from jaxtyping import Array, Float, Float32

from iecl_jax.losses.contrastive import l2_normalize


def negative_cosine(
    predictions: Float[Array, "n d"], targets: Float[Array, "n d"]
) -> Float32[Array, ""]:
    """Minus the mean cosine of row i of one with row i of the other, in -1 ... 1.

    They may have any scale, and all is computed in float32; a zero row has cosine 0. Gradients flow
    into both: where a method treats its targets as constants, the caller stops them.

    It is D of SimSiam (Chen & He 2021, Eq. 1), whose loss is the mean of both directions. BYOL
    (Grill et al. 2020, Eq. 2) has the squared distance of unit vectors, 2 + 2 D, and adds both
    directions: its loss is 4 + 4 times SimSiam's and its gradient four times as large. W-MSE
    (Ermolov et al. 2021) has 2 + 2 D once, of a pair of whitened views.
    """
    cosines = (l2_normalize(predictions) * l2_normalize(targets)).sum(-1)
    return -cosines.mean()
