"""Momentum contrast with SAIB on the query view: IE-CL (Algorithm 1), and MoCo with SAIB off.

Q, the anchor encoder, is trained; K, the momentum encoder, follows it. With SAIB g:

    q_anchor, q_query' = Q(anchor), Q(g(query));  k_query = K(g(query))  without gradient

The objective then compares q_anchor with k_query. Both passes of Q are one batch in which each view
has BN statistics of its own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn

from iecl_jax import collectives
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.methods import Method, ema
from iecl_jax.models import build


class Network(nn.Module):
    """Encoder and projector: images -> the encoder's outputs, "projection" float32 [V * b, d]."""

    encoder: nn.Module
    projector: nn.Module

    def __call__(self, images: jax.Array, **mode: Any) -> dict[str, jax.Array]:
        outputs = self.encoder(images, **mode)
        return outputs | {"projection": self.projector(outputs["pooled"], **mode)}


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """See `methods.Method`. Reads config.{method, encoder, projector, saib, objective, train}."""
    network = Network(build.encoder(config, axis_name), build.projector(config, axis_name))
    saib = build.saib(config, axis_name)
    symmetric, queue_size = config.method.symmetric, config.method.queue_size
    objective = config.objective
    encode_query = symmetric or objective.kl.weight > 0 or objective.entropy.weight > 0
    momentum = ema.coefficient(config.method.ema, total_steps)

    def init(key, views):
        keys = jax.random.split(key, 3)
        online = network.init(keys[0], views[0], train=True)
        params = {"online": online["params"]}
        state = {
            "online": online["batch_stats"],
            "momentum": jax.tree.map(
                jnp.copy, {"params": online["params"], "batch_stats": online["batch_stats"]}
            ),
        }
        if saib is not None:
            block = saib.init(keys[1], views[1], train=True)
            params["saib"], state["saib"] = block["params"], block.get("batch_stats", {})
        if queue_size:
            rows = jax.random.normal(keys[2], (queue_size, config.projector.output_dim))
            state["queue"] = {"keys": l2_normalize(rows), "next": jnp.zeros((), jnp.int32)}
        return params, state

    def apply_saib(params, state, images, *, train):
        assert saib is not None
        stats = state.get("saib", {})  # the expansive variant has none, so a checkpoint neither
        images, updated = saib.apply(
            {"params": params["saib"], "batch_stats": stats},
            images,
            train=train,
            mutable=["batch_stats"],
        )
        return images, updated.get("batch_stats", {})

    def forward(params, state, views):
        state = dict(state)
        anchor, query = views
        if saib is not None:
            query, state["saib"] = apply_saib(params, state, query, train=True)

        inputs = [anchor, query] if encode_query else [anchor]
        online, state["online"] = _apply(
            network,
            params["online"],
            state["online"],
            inputs,
            running_views=1 if config.method.running_stats == "anchor" else len(inputs),
        )
        # K is used without gradient (Algorithm 1), neither to itself nor through its input to SAIB.
        key_inputs = jax.lax.stop_gradient([query, anchor] if symmetric else [query])
        momentum_state = state["momentum"]
        target, stats = _apply(
            network,
            momentum_state["params"],
            momentum_state["batch_stats"],
            key_inputs,
            running_views=len(key_inputs),
        )
        state["momentum"] = momentum_state | {"batch_stats": stats}

        outputs = {
            "features": online["pooled"][0],
            "projection": online["projection"][0],
            "target_projection": target["projection"][0],
        }
        if encode_query:
            outputs["query_projection"] = online["projection"][1]
        if symmetric:
            outputs["anchor_target_projection"] = target["projection"][1]
        if queue_size:
            outputs["negatives"] = state["queue"]["keys"]
            state["queue"] = _enqueue(state["queue"], outputs["target_projection"], axis_name)
        return outputs, state

    def post_update(params, state, step):
        averaged = ema.update(state["momentum"]["params"], params["online"], momentum(step))
        return state | {"momentum": state["momentum"] | {"params": averaged}}

    def encode(params, state, images):
        variables = {
            "params": params["online"]["encoder"],
            "batch_stats": state["online"]["encoder"],
        }
        return network.encoder.apply(variables, images, train=False)

    def transform(params, state, images, *, train=False):
        return images if saib is None else apply_saib(params, state, images, train=train)[0]

    def embed(params, state, views):
        return _apply(network, params["online"], state["online"], list(views), running_views=1)[0]

    return Method(init, forward, post_update, encode, transform, embed, {"ema": momentum})


def _apply(network, params, batch_stats, inputs, *, running_views):
    """One training-mode pass over V inputs [b, ...]: outputs with a leading V, new statistics."""
    outputs, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        jnp.concatenate(inputs),
        train=True,
        num_views=len(inputs),
        running_views=running_views,
        mutable=["batch_stats"],
    )
    split = {
        name: outputs[name].reshape(len(inputs), -1, outputs[name].shape[-1])
        for name in ("pooled", "projection")
    }
    return split, updated["batch_stats"]


def _enqueue(queue, keys, axis_name):
    """Overwrites the oldest rows with the keys of all devices, in global order, unit length.

    The queue's length is a multiple of the batch (`config.check`), so that no slice wraps around.
    """
    keys = collectives.gather(l2_normalize(keys), axis_name)
    rows = jax.lax.dynamic_update_slice_in_dim(queue["keys"], keys, queue["next"], axis=0)
    return {"keys": rows, "next": (queue["next"] + len(keys)) % len(rows)}
