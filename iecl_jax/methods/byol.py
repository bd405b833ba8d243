"""BYOL (Grill et al. 2020): the online network predicts the momentum network's other view.

    loss = |p_anchor - k_query|^2 + |p_query - k_anchor|^2,  the mean over images

p and k have unit length, so each direction is 2 - 2 cosine. The loss is the sum of both directions,
from 0 to 8. With `crops`, each further view adds |p - k_anchor|^2 + |p - k_query|^2 (solo-learn).
"""

import ml_collections

from iecl_jax.losses.similarity import negative_cosine
from iecl_jax.methods.parts import crops, ema, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs

TITLE = "BYOL"


class Settings(online.Settings, online.PredictorSettings, ema.Settings, crops.OnRequest):
    """The settings of BYOL, all of them those of its parts."""


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns BYOL as a `Method`."""
    network = online.make(config, axis_name, predictor=True, crops=config.method.crops)
    momentum = ema.make(config, axis_name, total_steps=total_steps)
    init, forward = ema.of_both_views(network, momentum)

    def loss(outputs: Outputs) -> Loss:
        anchor, query, *further = online.of_all_views(outputs, "prediction")
        pairs = [(anchor, outputs["query_key"]), (query, outputs["anchor_key"])]
        pairs += [(p, outputs[key]) for p in further for key in ("anchor_key", "query_key")]
        first, *others = (negative_cosine(p, k) for p, k in pairs)
        value = 2 * len(pairs) + 2 * sum(others, first)
        return value, {}

    return Method(
        init,
        forward,
        loss,
        momentum.post_update,
        network.encode,
        network.embed,
        {"ema": momentum.schedule},
    )
