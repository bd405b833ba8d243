"""MoCo-v3 (Chen, Xie & He 2021): predictions against keys of the momentum network, without queue.

    loss = 2 T (InfoNCE(p_anchor, k_query) + InfoNCE(p_query, k_anchor)),  T the temperature

The loss is the sum of both directions. The negatives are the keys of the other images of the batch
on all devices. The logged `info_nce` is without the factor 2 T, and the logged top-1 is that of the
first direction.
"""

import ml_collections

from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import contrast, ema, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs

TITLE = "MoCo-v3"


class Settings(online.Settings, online.PredictorSettings, ema.Settings):
    """The settings of MoCo-v3, besides those of its parts."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns MoCo-v3 as a `Method`."""
    network = online.make(config, axis_name, predictor=True)
    momentum = ema.make(config, axis_name, total_steps=total_steps)
    init, forward = ema.of_both_views(network, momentum)
    temperature = config.method.temperature

    def direction(predictions, keys):
        return contrast.info_nce(predictions, keys, temperature=temperature, axis_name=axis_name)

    def loss(outputs: Outputs) -> Loss:
        first, top1 = direction(outputs["anchor_prediction"], outputs["query_key"])
        second, _ = direction(outputs["query_prediction"], outputs["anchor_key"])
        info = first + second
        return 2 * temperature * info, {"info_nce": info, "info_nce_top1": top1}

    return Method(
        init,
        forward,
        loss,
        momentum.post_update,
        network.encode,
        network.embed,
        {"ema": momentum.schedule},
    )
