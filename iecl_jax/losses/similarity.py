"""The similarity of paired embeddings, for methods without negatives."""

from jaxtyping import Array, Float, Float32

from iecl_jax.losses.contrastive import l2_normalize


def negative_cosine(
    predictions: Float[Array, "n d"], targets: Float[Array, "n d"]
) -> Float32[Array, ""]:
    """Returns minus the mean cosine of paired rows, between -1 and 1.

    The embeddings may have any scale. The cosine is computed in float32, and a zero row has cosine
    0. Gradients flow into both arguments: a method that treats its targets as constants must stop
    them.

    This is D of SimSiam (Chen & He 2021, Eq. 1), whose loss is the mean over both directions. BYOL
    (Grill et al. 2020, Eq. 2) uses the squared distance of unit vectors, 2 + 2 D, and adds both
    directions, so its loss is 4 + 4 times SimSiam's and its gradient four times as large. W-MSE
    (Ermolov et al. 2021) uses 2 + 2 D of one pair of whitened views.
    """
    cosines = (l2_normalize(predictions) * l2_normalize(targets)).sum(-1)
    return -cosines.mean()
