"""Barlow Twins (Zbontar et al. 2021): makes the cross-correlation C of the views the identity.

    loss = scale * (sum_i (1 - C_ii)^2 + lambda * sum_{i != j} C_ij^2)

C is computed from the embeddings of all devices, standardised with biased variances.
"""

import ml_collections

from iecl_jax.config.rules import NOT_NEGATIVE, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses import redundancy
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved
from iecl_jax.models import collectives

TITLE = "Barlow Twins"


class Settings(online.Settings):
    """The settings of Barlow Twins, besides those of its parts."""

    loss_scale = key(0.1, POSITIVE, "scale, a factor of the whole loss")
    off_diagonal_weight = key(0.005, NOT_NEGATIVE, "lambda, weight of the off-diagonal term")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns Barlow Twins as a `Method`."""
    network = online.make(config, axis_name)
    settings = config.method

    def loss(outputs: Outputs) -> Loss:
        on_diagonal, off_diagonal = redundancy.barlow_twins(
            *collectives.gather(
                (outputs["anchor_projection"], outputs["query_projection"]), axis_name
            )
        )
        value = settings.loss_scale * (on_diagonal + settings.off_diagonal_weight * off_diagonal)
        return value, {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
