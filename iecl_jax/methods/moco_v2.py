"""Momentum contrast (He et al. 2020, Chen et al. 2020): MoCo-v2, and IE-CL with SAIB on the query.

The online network Q is trained, and the momentum network K follows it without gradient:

    loss = InfoNCE(Q(anchor), K(query))

`symmetric` adds InfoNCE(Q(query), K(anchor)); the loss is then the sum of both directions, and the
logged top-1 is still that of the first. The negatives are the keys of the other images of the batch
on all devices (IE-CL). If `queue_size` is above 0, they are earlier keys K(query) instead (MoCo).
One queue serves both directions; some libraries have two. Q encodes the query only if the loss, the
KL term or the entropy term needs it.
"""

import jax
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.config.rules import COUNT_OR_NONE, POSITIVE
from iecl_jax.config.section import key
from iecl_jax.methods.parts import contrast, ema, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Tree, Views

TITLE = "MoCo-v2"


class Settings(online.Settings, ema.Settings):
    """The settings of MoCo-v2, besides those of its parts. The defaults are those of IE-CL."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax")
    symmetric = key(False, None, "add the loss of the query against the key of the anchor")
    queue_size = key(
        0, COUNT_OR_NONE, "number of earlier keys, the negatives; 0 = the batch's keys instead"
    )


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError unless the length of the queue is a multiple of the batch size."""
    queue.check(config)


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns MoCo-v2 or IE-CL as a `Method`."""
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
