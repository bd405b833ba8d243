"""Classes that images get without labels, and the loss of a classifier that learns them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

from iecl_jax.losses import assignment
from iecl_jax.losses.standardize import standardize


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


def of_batch(scores: Float[Array, "n K"], normalization: str) -> Int32[Array, "n"]:
    """Returns the class of each image: that of its largest normalised score, without gradient.

    The normalisation is of each class along the batch. Without one, all images soon get the same
    class.

    Args:
      scores: the scores of the images of all devices; computed in float32 whatever the type.
      normalization: of each class along the batch:
        bn: to mean 0 and variance 1, as batch norm without scale and bias;
        softmax: exponentials over their sum;
        l2: to length 1;
        sinkhorn: `assignment.sinkhorn` with epsilon 0.05 and 3 iterations, so that all classes get
          about as many images;
        none: as they are.

    Reference: Li et al. 2023 (MinEnt) for all but sinkhorn.
    """
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    if normalization == "bn":
        scores = standardize(scores, 0)
    elif normalization == "softmax":
        scores = jax.nn.softmax(scores, axis=0)
    elif normalization == "l2":
        scores = scores * jax.lax.rsqrt(jnp.maximum((scores * scores).sum(0), 1e-24))[None]
    elif normalization == "sinkhorn":
        scores = assignment.sinkhorn(scores, epsilon=0.05, iterations=3)
    return scores.argmax(1).astype(jnp.int32)
