"""NNCLR (Dwibedi et al. 2021): the positive is the nearest neighbour among earlier embeddings.

    loss = InfoNCE(nn(z_anchor), p_query) / 2 + InfoNCE(nn(z_query), p_anchor) / 2

nn(z) is the row of the support queue that is most similar to z; it is a constant. The keys are the
predictions p of all devices. The loss is the mean of both directions, and the logged top-1 is that
of the first. z_anchor enters the queue after the look-up.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Key

from iecl_jax.config.rules import COUNT, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses.product import product
from iecl_jax.methods.parts import contrast, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Tree, Views, unmoved

TITLE = "NNCLR"
LONG_QUEUE = True  # longer than the data set, as in solo-learn's recipe: an alarm tells


class Settings(online.Settings, online.PredictorSettings):
    """The settings of NNCLR, besides those of its parts."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax")
    queue_size = key(32768, COUNT, "number of earlier embeddings that are searched for neighbours")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError unless the length of the queue is a multiple of the batch size."""
    queue.check(config)


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns the alarm of a queue that is longer than the data set."""
    return queue.alarms(config, metrics)


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    num_images: int = 1,
) -> Method:
    """Returns NNCLR as a `Method`."""
    network = online.make(config, axis_name, predictor=True)

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = network.init(keys[0], views)
        size, dim = config.method.queue_size, config.projector.output_dim
        return params, state | {"queue": queue.init(keys[1], size, dim)}

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        outputs, state = network.forward(params, state, views)
        support = state["queue"]["keys"]
        for view in ("anchor", "query"):
            outputs[f"{view}_neighbor"] = nearest(outputs[f"{view}_projection"], support)
        entered = queue.enqueue(state["queue"], outputs["anchor_projection"], axis_name)
        return outputs, state | {"queue": entered}

    def direction(neighbors, predictions):
        return contrast.info_nce(
            neighbors, predictions, temperature=config.method.temperature, axis_name=axis_name
        )

    def loss(outputs: Outputs) -> Loss:
        first, top1 = direction(outputs["anchor_neighbor"], outputs["query_prediction"])
        second, _ = direction(outputs["query_neighbor"], outputs["anchor_prediction"])
        info = (first + second) / 2
        return info, {"info_nce": info, "info_nce_top1": top1}

    schedules = {"queue_epochs": queue.epochs(config, num_images)}
    return Method(init, forward, loss, unmoved, network.encode, network.embed, schedules)


def nearest(z: Float32[Array, "b d"], support: Float32[Array, "K d"]) -> Float32[Array, "b d"]:
    """Returns, for each row of z, the row of `support` with the largest cosine.

    The rows of `support` have unit length. No gradient flows to z.
    """
    similarity = product(z, support.T)  # z needs no normalising: its scale keeps the order
    return jnp.take(support, similarity.argmax(axis=1), axis=0)
