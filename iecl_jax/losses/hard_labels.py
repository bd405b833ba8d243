"""Labels that a classifier gives to the images of a batch, and that another view learns.

An image gets the class of its largest score, after a normalisation along the batch. Without one,
all images soon get the same class.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int, Int32

from iecl_jax.losses import assignment
from iecl_jax.losses.standardize import standardize


def labels(scores: Float[Array, "n K"], normalization: str) -> Int32[Array, "n"]:
    """Returns the class of each image: that of its largest normalised score, without gradient.

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


def cross_entropy(scores: Float[Array, "n K"], classes: Int[Array, "n"]) -> Float32[Array, ""]:
    """Returns the mean of -log softmax(scores) at each row's class, in nats and float32."""
    log_probs = jax.nn.log_softmax(scores.astype(jnp.float32))
    return -jnp.take_along_axis(log_probs, classes[:, None], axis=1).mean()


def frequencies(classes: Int[Array, "n"], count: int) -> Float32[Array, "{count}"]:
    """Returns the share of the images in each of `count` classes."""
    return (classes[:, None] == jnp.arange(count)[None]).astype(jnp.float32).mean(0)
