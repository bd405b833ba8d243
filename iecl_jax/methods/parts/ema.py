"""The momentum network, whose parameters are a moving average of the online network's."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Key

from iecl_jax.config.rules import SHARE
from iecl_jax.config.section import Section, key
from iecl_jax.methods.parts.method import Outputs, Scalar, Step, Tree, Views
from iecl_jax.methods.parts.online import Network, Online, apply_views
from iecl_jax.models import build


class Settings(Section):
    """The settings of a method with a momentum network."""

    class ema(Section):
        """The coefficient m of the moving average."""

        schedule = key("constant", ("constant", "cosine"), "schedule of m over the run")
        start = key(0.9, SHARE, "m at the first step; with schedule constant at every step")
        end = key(1.0, SHARE, "m at the end of a cosine schedule")


class Momentum(NamedTuple):
    """The functions of a momentum network, which is state["momentum"] {"params", "batch_stats"}.

    Attributes:
      init: (params, state) -> state; adds a copy of what it follows.
      forward: (state, V views of one size) -> (projections, state), in training mode. The views
        have the BN statistics that `method.batch_stats` says, and all of them move the running
        ones. No gradient flows into the network or into the views.
      post_update: (params, state, step) -> state; moves the parameters (not the statistics) to
        m * momentum + (1 - m) * online.
      schedule: step -> m.
    """

    init: Callable[[Tree, Tree], Tree]
    forward: Callable[[Tree, Views], tuple[Float32[Array, "V b d"], Tree]]
    post_update: Callable[[Tree, Tree, Step], Tree]
    schedule: Callable[[Step], Scalar]


def make(
    config: ml_collections.ConfigDict,
    axis_name: str | None,
    *,
    total_steps: int,
    follows: Sequence[str] = ("encoder", "projector"),
) -> Momentum:
    """Builds the momentum network.

    It reads config.{encoder, projector, train} and config.method.{ema, batch_stats}. It has the
    subtrees `follows` of the online network; `forward` uses its encoder and projector.
    """
    network = Network(build.encoder(config, axis_name), build.projector(config, axis_name))
    schedule = coefficient(config.method.ema, total_steps)
    shared = config.method.batch_stats == "size"

    def followed(online):
        return {name: online[name] for name in follows if name in online}

    def init(params, state):
        # Copies, because a step that donates its arguments may not get the same buffer twice.
        copied = {"params": params["online"], "batch_stats": state["online"]}
        momentum = {name: jax.tree.map(jnp.copy, followed(tree)) for name, tree in copied.items()}
        return state | {"momentum": momentum}

    def forward(state: Tree, views: Views) -> tuple[Float32[Array, "V b d"], Tree]:
        momentum = state["momentum"]
        params, views = jax.lax.stop_gradient((momentum["params"], views))
        outputs, stats = apply_views(
            network,
            params,
            momentum["batch_stats"],
            views,
            running_views=len(views),
            shared=shared,
            parts=config.train.accumulate,
        )
        return outputs["projection"], state | {"momentum": momentum | {"batch_stats": stats}}

    def post_update(params, state, step):
        averaged = update(state["momentum"]["params"], followed(params["online"]), schedule(step))
        return state | {"momentum": state["momentum"] | {"params": averaged}}

    return Momentum(init, forward, post_update, schedule)


def of_both_views(
    online: Online, momentum: Momentum
) -> tuple[
    Callable[[Key[Array, ""], Views], tuple[Tree, Tree]],
    Callable[[Tree, Tree, Views], tuple[Outputs, Tree]],
]:
    """Returns (init, forward) of a method where both networks encode both views (BYOL, MoCo-v3).

    The outputs are those of `Online.forward`, and the momentum network's projections of the two
    views, "anchor_key" and "query_key" [b, d].
    """

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        params, state = online.init(key, views)
        return params, momentum.init(params, state)

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        outputs, state = online.forward(params, state, views)
        (anchor_key, query_key), state = momentum.forward(state, views[:2])
        return outputs | {"anchor_key": anchor_key, "query_key": query_key}, state

    return init, forward


def coefficient(ema: ml_collections.ConfigDict, total_steps: int) -> Callable[[Step], Scalar]:
    """Returns the function from a step to m: constant, or a cosine from `start` to `end`.

    The cosine is that of Grill et al. 2020, where `end` is 1.
    """
    if ema.schedule == "constant":
        return lambda step: jnp.float32(ema.start)

    def cosine(step: Step) -> Scalar:
        progress = step.astype(jnp.float32) / total_steps
        return ema.end - (ema.end - ema.start) * (jnp.cos(jnp.pi * progress) + 1) / 2

    return cosine


def update(average: Tree, new: Tree, m: Scalar) -> Tree:
    """Returns m * average + (1 - m) * new, leaf by leaf."""
    return jax.tree.map(lambda a, b: m * a + (1 - m) * b, average, new)
