"""Momentum contrast (He et al. 2020, Chen et al. 2020): MoCo-v2, and IE-CL with SAIB on the query.

The online network Q is trained, and the momentum network K follows it without gradient:

    loss = InfoNCE(Q(anchor), K(query)), + InfoNCE(Q(query), K(anchor)) if symmetric

So the symmetric loss is the sum of both directions; the other logged values are still those of the
first. The negatives are the keys of the other images of
the batch on all devices (IE-CL). If `queue_size` is above 0, they are earlier keys K(query) instead
(MoCo). One queue serves both directions; some libraries have two. Q encodes the query only if the
loss, the KL term or the entropy term needs it.

Light-MoCo (Lin et al. 2023) is the symmetric form with `enqueue="both"`, and with SoftNCE instead
of InfoNCE: if `smooth.mass` is above 0, the target has that mass at the nearest negatives.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.config.rules import COUNT, COUNT_OR_NONE, POSITIVE, SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.losses import soft_contrastive
from iecl_jax.methods.parts import contrast, ema, online, queue
from iecl_jax.methods.parts.method import Loss, Method, Outputs, Scalar, Step, Tree, Views

TITLE = "MoCo-v2"


class Settings(online.Settings, ema.Settings):
    """The settings of MoCo-v2, besides those of its parts. The defaults are those of IE-CL."""

    temperature = key(0.2, POSITIVE, "temperature of the softmax")
    symmetric = key(False, None, "add the loss of the query against the key of the anchor")
    queue_size = key(
        0, COUNT_OR_NONE, "number of earlier keys, the negatives; 0 = the batch's keys instead"
    )
    enqueue = key(
        "query", ("query", "both"), "keys that enter the queue; both = the anchor's, then these"
    )

    class smooth(Section):
        """SoftNCE: a target that has some of its mass at the nearest negatives."""

        mass = key(0.0, SHARE, "mass at negatives; 0 = InfoNCE")
        k = key(20, COUNT, "number of nearest negatives that get it, unless the strategy is all")
        strategy = key(
            "uniform",
            soft_contrastive.STRATEGIES,
            "how they share it, see losses/soft_contrastive.py",
        )
        schedule = key(
            "constant",
            ("constant", "after_warmup", "cosine"),
            "mass over the run: the same; 0 in the warm-up of the rate; from 0 up by a cosine",
        )


def check(config: ml_collections.ConfigDict, num_devices: int) -> None:
    """Raises ValueError unless the queue holds whole batches, and the mass can be shared."""
    queue.check(config)
    smooth = config.method.smooth
    if not smooth.mass or smooth.strategy == "all":
        return
    if smooth.strategy in soft_contrastive.BY_PARTS and smooth.k not in soft_contrastive.PARTS:
        raise ValueError(
            f"method.smooth.k={smooth.k} must be one of "
            f"{', '.join(map(str, soft_contrastive.PARTS))} with method.smooth.strategy="
            f"{smooth.strategy}."
        )
    negatives = config.method.queue_size or config.train.batch_size - 1
    if smooth.k > negatives:
        raise ValueError(
            f"method.smooth.k={smooth.k} must be at most {negatives}, the number of negatives: "
            "lower it, lengthen method.queue_size, or set method.smooth.mass=0."
        )


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    steps_per_epoch: int = 1,
) -> Method:
    """Returns MoCo-v2 or IE-CL as a `Method`."""
    q = online.make(config, axis_name)
    k = ema.make(config, axis_name, total_steps=total_steps)
    symmetric, queue_size = config.method.symmetric, config.method.queue_size
    both_enter = queue_size > 0 and config.method.enqueue == "both"
    smooth = config.method.smooth
    shares = soft_contrastive.shares(smooth.strategy, smooth.k) if smooth.mass else []
    moving = smooth.mass > 0 and smooth.schedule != "constant"
    warmup = round(config.schedule.warmup_epochs * steps_per_epoch)
    objective = config.objective
    encode_query = symmetric or objective.kl.weight > 0 or objective.entropy.weight > 0

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        keys = jax.random.split(key)
        params, state = q.init(keys[0], views)
        state = k.init(params, state)
        if queue_size:
            state["queue"] = queue.init(keys[1], queue_size, config.projector.output_dim)
        return params, state

    def mass(step: Step) -> Scalar:
        if smooth.schedule == "cosine":
            progress = step.astype(jnp.float32) / total_steps
            return smooth.mass * (1 - jnp.cos(jnp.pi * progress)) / 2
        begins = warmup if smooth.schedule == "after_warmup" else 0
        return jnp.where(step < begins, 0.0, jnp.float32(smooth.mass))

    def forward(params: Tree, state: Tree, views: Views, **facts: Step) -> tuple[Outputs, Tree]:
        anchor, query = views[:2]
        outputs, state = q.forward(params, state, [anchor, query] if encode_query else [anchor])
        two_keys = symmetric or both_enter
        keys, state = k.forward(state, [query, anchor] if two_keys else [query])
        names = ("query_key", "anchor_key")
        outputs |= dict(zip(names, keys, strict=False))
        if queue_size:
            outputs["negatives"] = state["queue"]["keys"]
            for entering in reversed(keys) if both_enter else keys[:1]:
                state = state | {"queue": queue.enqueue(state["queue"], entering, axis_name)}
        if moving:
            outputs["smooth_mass"] = mass(facts["step"])
        return outputs, state

    def direction(outputs, anchors, keys) -> Loss:
        anchors, keys, negatives = outputs[anchors], outputs[keys], outputs.get("negatives")
        common = {"temperature": config.method.temperature, "axis_name": axis_name}
        if not smooth.mass:
            info, top1 = contrast.info_nce(anchors, keys, negatives=negatives, **common)
            return info, {"info_nce_top1": top1}
        share = outputs.get("smooth_mass", smooth.mass)
        info, top1, positive_share = contrast.soft_nce(
            anchors, keys, mass=share, shares=shares, negatives=negatives, **common
        )
        return info, {"info_nce_top1": top1, "positive_share": positive_share}

    def loss(outputs: Outputs) -> Loss:
        info, terms = direction(outputs, "anchor_projection", "query_key")
        if symmetric:
            info = info + direction(outputs, "query_projection", "anchor_key")[0]
        return info, {"info_nce": info} | terms

    schedules = {"ema": k.schedule} | ({"smooth_mass": mass} if smooth.mass else {})
    return Method(
        init,
        forward,
        loss,
        k.post_update,
        q.encode,
        q.embed,
        schedules,
        reads=("step",) if moving else (),
    )
