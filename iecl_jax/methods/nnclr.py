"""NNCLR (Dwibedi et al. 2021): an embedding's nearest earlier neighbour is the positive.

    loss = InfoNCE(nn(z_anchor), p_query) / 2 + InfoNCE(nn(z_query), p_anchor) / 2

nn(z) is the row of the support queue most similar to z, a constant; the keys are the predictions of
all devices. The mean of both directions; the logged top-1 is the first one's. z_anchor enters the
queue after the look-up.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Key

from iecl_jax.config.rules import COUNT, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.losses.product import product
from iecl_jax.methods.parts import contrast, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Tree, Views, unmoved


class Settings(online.Settings, online.PredictorSettings):
    """See `methods.parts`, and its own."""

    temperature = key(0.2, POSITIVE, "of the logits")
    queue_size = key(32768, COUNT, "earlier embeddings among which neighbours are found")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError if the queue does not fit the batch."""
    queue.check(config)


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """See `methods.Method`."""
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

    return Method(init, forward, loss, unmoved, network.encode, network.embed, {})


def nearest(z: Float32[Array, "b d"], support: Float32[Array, "K d"]) -> Float32[Array, "b d"]:
    """The rows of unit `support` with the largest cosine to each of z, constants."""
    similarity = product(z, support.T)  # the scale of z does not change which is the largest
    return jnp.take(support, similarity.argmax(axis=1), axis=0)
