"""SAIB in front of any method: it transforms a view before the method sees it."""

import jax
import ml_collections
from jaxtyping import Array, Key

from iecl_jax.methods.parts.method import Images, Method, Outputs, Tree, Views
from iecl_jax.models import build

SIDES = {"query": (1,), "anchor": (0,), "both": (0, 1)}  # -> the views that are transformed


def attach(
    method: Method, config: ml_collections.ConfigDict, axis_name: str | None = None
) -> Method:
    """The method with the SAIB of `config.saib` on its views; the method itself where it is off.

    The block's parameters are params["saib"], its statistics method_state["saib"]. It is trained by
    whatever gradient the method and the objective send back through the transformed view. With
    `saib.side` = both the same block transforms the anchor, then the query.
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
        # The expansive variant has no statistics, and a checkpoint of it no "saib" in its state.
        return images, state | {"saib": updated.get("batch_stats", {})}

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        params, state = method.init(key, views)  # the same weights as without SAIB
        variables = block.init(jax.random.fold_in(key, 1), views[1], train=True)
        stats = variables.get("batch_stats", {})
        return params | {"saib": variables["params"]}, state | {"saib": stats}

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        views = list(views)
        for side in sides:
            views[side], state = apply(params, state, views[side], train=True)
        return method.forward(params, state, views)

    def transform(params: Tree, state: Tree, images: Images, *, train: bool = False) -> Images:
        return apply(params, state, images, train=train)[0]

    return method._replace(init=init, forward=forward, transform=transform)
