"""Matrix-SSL (Zhang et al. 2024): a uniform cross-covariance of the views, aligned covariances.

    loss = lambda * [U(k_query, p_anchor) + U(k_anchor, p_query)] / 2
         + gamma  * [A(k_query, p_anchor) + A(k_anchor, p_query)] / 2

U is the matrix uniformity -tr log(C + mu I) and A the matrix alignment of `losses.matrix`, with the
logarithm's Taylor series of `order` terms. p are predictions, and k projections of the momentum
network, which is in training mode. All are unit rows of all devices.

The authors' code has lambda = gamma = mu = 1. The paper divides the uniformity by the dimension d
(`uniformity_scale="paper"`). The cross-covariance is not symmetric; `symmetric` takes the mean of
it and its transpose.
"""

import jax.numpy as jnp
import ml_collections

from iecl_jax.config.rules import FEW, NOT_NEGATIVE, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses import matrix
from iecl_jax.methods.parts import ema, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs
from iecl_jax.models import collectives

TITLE = "Matrix-SSL"


class Settings(online.Settings, online.PredictorSettings, ema.Settings):
    """The settings of Matrix-SSL, besides those of its parts."""

    uniformity_weight = key(1.0, NOT_NEGATIVE, "lambda, weight of the matrix uniformity")
    uniformity_scale = key(
        "code",
        ("code", "paper"),
        "code: the trace as it is; paper: divided by the dimension of the embeddings",
    )
    alignment_weight = key(1.0, NOT_NEGATIVE, "gamma, weight of the matrix alignment")
    identity_weight = key(1.0, POSITIVE, "mu, multiple of the identity added to covariances")
    order = key(4, FEW, "terms of the Taylor series of the logarithm")
    symmetric = key(False, None, "uniformity of the symmetric part of the cross-covariance")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns Matrix-SSL as a `Method`."""
    network = online.make(config, axis_name, predictor=True)
    momentum = ema.make(config, axis_name, total_steps=total_steps)
    init, forward = ema.of_both_views(network, momentum)
    settings = config.method
    series = {"identity": settings.identity_weight, "order": settings.order}

    def loss(outputs: Outputs) -> Loss:
        names = ("query_key", "anchor_prediction", "anchor_key", "query_prediction")
        rows = collectives.gather([outputs[name] for name in names], axis_name)
        pairs = (rows[:2], rows[2:])
        uniform = [matrix.uniformity(*p, **series, symmetric=settings.symmetric) for p in pairs]
        aligned = [matrix.alignment(*p, **series) for p in pairs]
        uniformity, alignment = jnp.stack(uniform).mean(), jnp.stack(aligned).mean()
        scale = 1 / rows[0].shape[1] if settings.uniformity_scale == "paper" else 1
        value = scale * settings.uniformity_weight * uniformity
        value += settings.alignment_weight * alignment
        return value, {"uniformity": uniformity, "alignment": alignment}

    return Method(
        init,
        forward,
        loss,
        momentum.post_update,
        network.encode,
        network.embed,
        {"ema": momentum.schedule},
    )
