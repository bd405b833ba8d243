"""Assignments of images to prototypes, and the loss that predicts those of one view from another.

They are computed in float32 at least, whatever the type of the scores. Entropies are in nats.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def sinkhorn(
    scores: Float[Array, "n K"],
    *,
    epsilon: float,
    iterations: int,
    counted: Bool[Array, "n"] | None = None,
) -> Float[Array, "n K"]:
    """Returns soft assignments of images to prototypes, which use all prototypes equally.

    exp(scores / epsilon) is scaled `iterations` times: each prototype to an equal share of the
    images, then each image to a sum of 1. So the rows are probabilities, and the columns are equal
    as far as so few iterations get. The logarithms are scaled, so nothing overflows. No gradient
    flows to the scores.

    Args:
      scores: similarities of all images that are shared out, over all devices.
      epsilon: > 0; an image's assignment tends to a single prototype as it falls.
      iterations: at least 1.
      counted: False for rows that do not count among the images; None = all count. What is returned
        for such rows means nothing.

    Reference: Cuturi 2013; Asano et al. 2020; Caron et al. 2020 (SwAV), Eq. 3 and 5.
    """
    logs = _at_least_float32(jax.lax.stop_gradient(scores)) / epsilon

    def scale(_, logs):
        shared = logs if counted is None else jnp.where(counted[:, None], logs, -jnp.inf)
        logs = logs - jax.nn.logsumexp(shared, axis=0, keepdims=True)
        return jax.nn.log_softmax(logs)

    return jnp.exp(jax.lax.fori_loop(0, iterations, scale, logs))


def cross_entropy(targets: Float[Array, "*b K"], scores: Float[Array, "*b K"]) -> Float[Array, ""]:
    """Returns the mean over rows of -sum_k targets log softmax(scores), in nats."""
    log_probs = jax.nn.log_softmax(_at_least_float32(scores))
    return -(targets * log_probs).sum(-1).mean()


def of_other_views(
    targets: Float[Array, "A b K"], scores: Float[Array, "V b K"]
) -> Float[Array, ""]:
    """Returns the mean of `cross_entropy` over all pairs of a target's view and another view.

    Args:
      targets: probabilities of the first A of the V views (SwAV: codes, DINO: the teacher's).
      scores: the scores of all views, divided by their temperature.

    Reference: Caron et al. 2020 (SwAV), Eq. 1 and section 3.3; Caron et al. 2021 (DINO), Eq. 3.
    """
    views = range(len(scores))
    pairs = [(a, v) for a in range(len(targets)) for v in views if v != a]
    return jnp.stack([cross_entropy(targets[a], scores[v]) for a, v in pairs]).mean()


def entropy(probabilities: Float[Array, "*b K"]) -> Float[Array, "*b"]:
    """Returns the entropy of each row of probabilities: 0 for a single prototype, log K at most."""
    p = _at_least_float32(probabilities)
    return -jax.scipy.special.xlogy(p, p).sum(-1)


def num_used(assignments: Float[Array, "n K"]) -> Int[Array, ""]:
    """Returns the number of prototypes that are the largest of some row."""
    largest = assignments.argmax(1)[:, None]
    return (largest == jnp.arange(assignments.shape[1])[None]).any(0).sum()


def _at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)
