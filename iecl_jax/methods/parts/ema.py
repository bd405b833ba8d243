"""The momentum network: a copy of the online network that follows it by a moving average."""

from collections.abc import Callable
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
    """Of a method with a momentum network."""

    class ema(Section):
        """The coefficient m of the moving average."""

        schedule = key("constant", ("constant", "cosine"), "m over the steps")
        start = key(0.9, SHARE, "m at the first step, and at all of a constant schedule")
        end = key(1.0, SHARE, "m at the end of a cosine schedule")


class Momentum(NamedTuple):
    """Functions of the momentum network, which is state["momentum"] {"params", "batch_stats"}.

    Attributes:
      init: (params, state) -> state with a copy of the online encoder and projector.
      forward: (state, V views of one size) -> (projections, state): training mode, each view with
        BN statistics of its own, which all move the running ones. Without gradient, neither to the
        network nor through its views.
      post_update: (params, state, step) -> state: m * momentum + (1 - m) * online, parameters only.
      schedule: step -> m.
    """

    init: Callable[[Tree, Tree], Tree]
    forward: Callable[[Tree, Views], tuple[Float32[Array, "V b d"], Tree]]
    post_update: Callable[[Tree, Tree, Step], Tree]
    schedule: Callable[[Step], Scalar]


def make(config: ml_collections.ConfigDict, axis_name: str | None, *, total_steps: int) -> Momentum:
    """Reads config.{encoder, projector, train.precision} and config.method.ema."""
    network = Network(build.encoder(config, axis_name), build.projector(config, axis_name))
    schedule = coefficient(config.method.ema, total_steps)

    def followed(online):
        return {name: tree for name, tree in online.items() if name != "predictor"}

    def init(params, state):
        copied = {"params": params["online"], "batch_stats": state["online"]}
        momentum = {name: jax.tree.map(jnp.copy, followed(tree)) for name, tree in copied.items()}
        return state | {"momentum": momentum}

    def forward(state: Tree, views: Views) -> tuple[Float32[Array, "V b d"], Tree]:
        momentum = state["momentum"]
        params, views = jax.lax.stop_gradient((momentum["params"], views))
        outputs, stats = apply_views(
            network, params, momentum["batch_stats"], views, running_views=len(views)
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
    """(init, forward) of a method whose two networks both see both views (BYOL, MoCo-v3).

    The outputs are those of `Online.forward`, and "anchor_key" and "query_key" [b, d], the momentum
    network's projections of the two views.
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
    """Step -> momentum coefficient m: constant `start`, or cosine from `start` to `end`
    (Grill et al. 2020, where end = 1)."""
    if ema.schedule == "constant":
        return lambda step: jnp.float32(ema.start)

    def cosine(step: Step) -> Scalar:
        progress = step.astype(jnp.float32) / total_steps
        return ema.end - (ema.end - ema.start) * (jnp.cos(jnp.pi * progress) + 1) / 2

    return cosine


def update(average: Tree, new: Tree, m: Scalar) -> Tree:
    """m * average + (1 - m) * new, leaf by leaf."""
    return jax.tree.map(lambda a, b: m * a + (1 - m) * b, average, new)
