"""VICReg (Bardes et al. 2022): an invariance term, and two terms that prevent collapse.

    loss = 25 * invariance + 25 * variance + 1 * covariance

`losses.redundancy.vicreg` computes the terms from the embeddings of all devices. The invariance is
the mean squared difference over images and dimensions. The variance term is a hinge on the unbiased
standard deviation, and the covariance term sums squared unbiased covariances. Both are sums over
the two views.
"""

import ml_collections

from iecl_jax.config.rules import NOT_NEGATIVE
from iecl_jax.config.section import key
from iecl_jax.losses import redundancy
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models import collectives

TITLE = "VICReg"
TERMS = ("invariance", "variance", "covariance")


class Settings(online.Settings):
    """The settings of VICReg, besides those of its parts."""

    invariance_weight = key(25.0, NOT_NEGATIVE, "weight of the squared difference of the views")
    variance_weight = key(25.0, NOT_NEGATIVE, "weight of the hinge on the standard deviations")
    covariance_weight = key(1.0, NOT_NEGATIVE, "weight of the squared covariances")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns VICReg as a `Method`."""
    network = online.make(config, axis_name)
    settings = config.method
    weights = (settings.invariance_weight, settings.variance_weight, settings.covariance_weight)

    def loss(outputs: Outputs) -> Loss:
        terms = redundancy.vicreg(
            *collectives.gather(
                (outputs["anchor_projection"], outputs["query_projection"]), axis_name
            )
        )
        value = sum(weight * term for weight, term in zip(weights, terms, strict=True))
        return value, dict(zip(TERMS, terms, strict=True))

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
