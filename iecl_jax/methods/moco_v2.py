"""Momentum contrast (He et al. 2020, Chen et al. 2020): MoCo-v2, and IE-CL with SAIB on the query.

Q, the online network, is trained; K, the momentum network, follows it:

    q_anchor, q_query = Q(anchor), Q(query);  k_query = K(query)  without gradient

The loss is InfoNCE of q_anchor against k_query, with `symmetric` plus that of q_query against
k_anchor (a sum, not a mean; the logged top-1 is the first one's). The other keys are those of the
batch on all devices (IE-CL) or, with `queue_size`, earlier k_query alone (MoCo): one queue for both
directions, where some libraries have two. Q sees the query where something asks for q_query.
"""

import jax
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.config.rules import COUNT_OR_NONE, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import contrast, ema, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Tree, Views


class Settings(online.Settings, ema.Settings):
    """See `methods.parts`, and its own. The defaults are IE-CL's."""

    temperature = key(0.2, POSITIVE, "of the logits")
    symmetric = key(False, None, "add the loss of the query against the anchor's key")
    queue_size = key(0, COUNT_OR_NONE, "earlier keys as negatives; 0 = those of the batch instead")


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError if the queue does not fit the batch."""
    queue.check(config)


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """See `methods.Method`."""
    q = online.make(config, axis_name)
    k = ema.make(config, axis_name, total_steps=total_steps)
    symmetric, queue_size = config.method.symmetric, config.method.queue_size
    objective = config.objective
    encode_query = symmetric or objective.kl.weight > 0 or objective.entropy.weight > 0

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = q.init(keys[0], views)
        state = k.init(params, state)
        if queue_size:
            state["queue"] = queue.init(keys[1], queue_size, config.projector.output_dim)
        return params, state

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        anchor, query = views[:2]
        outputs, state = q.forward(params, state, [anchor, query] if encode_query else [anchor])
        keys, state = k.forward(state, [query, anchor] if symmetric else [query])
        names = ("query_key", "anchor_key")
        outputs |= dict(zip(names, keys, strict=False))
        if queue_size:
            outputs["negatives"] = state["queue"]["keys"]
            state = state | {"queue": queue.enqueue(state["queue"], keys[0], axis_name)}
        return outputs, state

    def direction(anchors, keys, negatives):
        return contrast.info_nce(
            anchors,
            keys,
            temperature=config.method.temperature,
            axis_name=axis_name,
            negatives=negatives,
        )

    def loss(outputs: Outputs) -> Loss:
        negatives = outputs.get("negatives")
        info, top1 = direction(outputs["anchor_projection"], outputs["query_key"], negatives)
        if symmetric:
            other, _ = direction(outputs["query_projection"], outputs["anchor_key"], negatives)
            info = info + other
        return info, {"info_nce": info, "info_nce_top1": top1}

    return Method(init, forward, loss, k.post_update, q.encode, q.embed, {"ema": k.schedule})
