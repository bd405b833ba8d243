"""SimSiam (Chen & He 2021): each view's prediction approaches the other view's projection.

    loss = D(p_anchor, z_query) / 2 + D(p_query, z_anchor) / 2,  D = -cosine

The projections z are constants. The loss is the mean of both directions, from -1 to 1. The recipe
keeps the learning rate of the predictor constant (`optimizer.predictor_schedule`).
"""

import jax
import ml_collections

from iecl_jax.losses.similarity import negative_cosine
from iecl_jax.methods.parts import online
from iecl_jax.methods.parts.method import Loss, Method, Outputs, unmoved

TITLE = "SimSiam"


class Settings(online.Settings, online.PredictorSettings):
    """The settings of SimSiam, all of them those of its parts."""


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns SimSiam as a `Method`."""
    network = online.make(config, axis_name, predictor=True)

    def loss(outputs: Outputs) -> Loss:
        anchor, query = jax.lax.stop_gradient(
            (outputs["anchor_projection"], outputs["query_projection"])
        )
        value = 0.5 * negative_cosine(outputs["anchor_prediction"], query)
        value += 0.5 * negative_cosine(outputs["query_prediction"], anchor)
        return value, {}

    return Method(
        network.init, network.forward, loss, unmoved, network.encode, network.embed, schedules={}
    )
