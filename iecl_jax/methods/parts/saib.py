"""Puts SAIB in front of a method, so that it transforms a view before the method sees it."""

from typing import Any

import jax
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.methods.parts.method import Images, Method, Outputs, Tree, Views
from iecl_jax.models import build

# {saib.side: the places of the views that SAIB transforms}
SIDES = {"query": (1,), "anchor": (0,), "both": (0, 1)}


def attach(
    method: Method, config: ml_collections.ConfigDict, axis_name: str | None = None
) -> Method:
    """Returns the method with the SAIB of `config.saib` on its views, or as it is if SAIB is off.

    The block's parameters are params["saib"], and its statistics method_state["saib"]. The gradient
    of the method's loss and of the objective's terms, through the transformed view, trains it. If
    `saib.side` is "both", the same block transforms the anchor and then the query.
    """
    block = build.saib(config, axis_name)
    if block is None:
        return method
    sides = SIDES[config.saib.side]

    def apply(params: Tree, state: Tree, images: Images, *, train: bool) -> tuple[Images, Tree]:
        images, updated = block.apply(
            {"params": params["saib"], "batch_stats": state.get("saib", {})},
            images,
            train=train,
            mutable=["batch_stats"],
        )
        # The expansive variant has no statistics, so its checkpoints have no "saib" in the state.
        return images, state | {"saib": updated.get("batch_stats", {})}

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        # The method gets the key as it is, so its weights are the same as without SAIB.
        params, state = method.init(key, views)
        variables = block.init(jax.random.fold_in(key, 1), views[1], train=True)
        stats = variables.get("batch_stats", {})
        return params | {"saib": variables["params"]}, state | {"saib": stats}

    def forward(params: Tree, state: Tree, views: Views, **facts: Any) -> tuple[Outputs, Tree]:
        views = list(views)
        for side in sides:
            views[side], state = apply(params, state, views[side], train=True)
        return method.forward(params, state, views, **facts)

    def transform(params: Tree, state: Tree, images: Images, *, train: bool = False) -> Images:
        return apply(params, state, images, train=train)[0]

    return method._replace(init=init, forward=forward, transform=transform)
