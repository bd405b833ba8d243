"""MoCo-v3 (Chen, Xie & He 2021): predictions against the momentum network's keys, no queue.

    loss = 2 T (InfoNCE(p_anchor, k_query) + InfoNCE(p_query, k_anchor)),  T the temperature

The sum of both directions; the other keys are those of the batch on all devices. The factor 2 T is
in the loss, not in the logged `info_nce`, and the logged top-1 is the first direction's.
"""

import ml_collections

from iecl_jax.config.rules import POSITIVE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import contrast, ema, online
from iecl_jax.methods.parts.method import Loss, Method, Outputs


class Settings(online.Settings, online.PredictorSettings, ema.Settings):
    """See `methods.parts`, and its own."""

    temperature = key(0.2, POSITIVE, "of the logits")


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """See `methods.Method`."""
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
