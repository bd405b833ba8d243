"""The loss of a classifier whose classes are clusters of the images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int


def cross_entropy(
    scores: Float[Array, "*V b K"], labels: Int[Array, "b"]
) -> Float32[Array, "*V b"]:
    """Returns -log softmax(scores) at the label of each image in each view, in nats.

    It is 0, without a gradient, for an image without a label (-1).

    Args:
      scores: the scores of the clusters, divided by their temperature.
      labels: the cluster of each image, or -1.

    Reference: Caron et al. 2018 (DeepCluster), Eq. 2.
    """
    scores = scores.astype(jnp.float32)
    labels = jnp.broadcast_to(labels, scores.shape[:-1])[..., None]
    own = jnp.take_along_axis(scores, jnp.maximum(labels, 0), axis=-1)
    losses = jax.nn.logsumexp(scores, axis=-1) - own[..., 0]
    return jnp.where(labels[..., 0] >= 0, losses, 0.0)
