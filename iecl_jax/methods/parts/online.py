"""The network that every method trains: encoder, projector and optionally predictor."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Key

from iecl_jax.config.rules import FEW, WIDTH
from iecl_jax.config.section import Section, key
from iecl_jax.methods.parts.method import Images, Outputs, Tree, Views
from iecl_jax.models import build


class Settings(Section):
    """The settings that every method has."""

    running_stats = key(
        "anchor",
        ("anchor", "both"),
        "views that move the running BN statistics of the online network",
    )


class PredictorSettings(Section):
    """The settings of a method with a predictor."""

    class predictor(Section):
        """The MLP that predicts one view's projection from the other's."""

        num_layers = key(2, FEW, "number of layers")
        hidden_dim = key(4096, WIDTH, "units of each hidden layer")


class Network(nn.Module):
    """The networks in a row, from the images of V views one after another.

    A call returns "pooled" of the encoder, "projection" and, with a predictor, "prediction"
    [V * b, d]. Without a projector, "projection" is "pooled". `further` heads get these, and their
    outputs are returned, too.
    """

    encoder: nn.Module
    projector: nn.Module | None
    predictor: nn.Module | None = None
    further: nn.Module | None = None

    def __call__(self, images: Images, **mode: Any) -> dict[str, Float[Array, "B ..."]]:
        outputs = self.encoder(images, **mode)
        _check_pooled(outputs, len(images))
        projection = outputs["pooled"]
        if self.projector is not None:
            projection = self.projector(projection, **mode)
        outputs = {"pooled": outputs["pooled"], "projection": projection}
        if self.predictor is not None:
            outputs["prediction"] = self.predictor(projection, **mode)
        if self.further is not None:
            outputs |= self.further(outputs, **mode)
        return outputs


class Online(NamedTuple):
    """The functions of the trained network; `params` and `state` are those of `methods.Method`.

    Attributes:
      init: (key, views) -> ({"online": parameters}, {"online": statistics}).
      forward: (params, state, views) -> (outputs, state), in training mode. The anchor and the
        query, if it is there, are encoded as one batch, each with its own BN statistics. Further
        views are not used. The outputs are "features" [b, F] of the anchor (of the query if SAIB
        transforms only the anchor), "anchor_projection" and "query_projection" [b, d], and with a
        predictor "anchor_prediction" and "query_prediction" [b, d]. An output NAME of the further
        heads is "anchor_NAME" and "query_NAME".
      encode, embed: see `methods.Method`.
    """

    init: Callable[[Key[Array, ""], Views], tuple[Tree, Tree]]
    forward: Callable[[Tree, Tree, Views], tuple[Outputs, Tree]]
    encode: Callable[[Tree, Tree, Images], dict[str, Float[Array, "B ..."]]]
    embed: Callable[[Tree, Tree, Views], dict[str, Float32[Array, "V b _"]]]


def make(
    config: ml_collections.ConfigDict,
    axis_name: str | None,
    *,
    projector: bool = True,
    predictor: bool = False,
    further: nn.Module | None = None,
) -> Online:
    """Builds the trained network.

    It reads config.{encoder, train.precision}, config.method.running_stats and, for a projector and
    a predictor, config.projector and config.method.predictor. `further` are the heads of
    `models.heads`, if there are any.
    """
    network = Network(
        build.encoder(config, axis_name),
        build.projector(config, axis_name) if projector else None,
        build.predictor(config, axis_name) if predictor else None,
        further,
    )
    every_view_moves = config.method.running_stats == "both"
    # Evaluation encodes images without SAIB. So the view without SAIB comes first: it moves the
    # running statistics and gives the online probe its features.
    saib_on_anchor = config.saib.enabled and config.saib.side == "anchor"

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        variables = network.init(key, views[0], train=True)
        return {"online": variables["params"]}, {"online": variables.get("batch_stats", {})}

    def apply(params: Tree, state: Tree, views: Views):
        return apply_views(
            network,
            params["online"],
            state.get("online", {}),
            views,
            running_views=len(views) if every_view_moves else 1,
        )

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        views = views[:2]
        query_leads = saib_on_anchor and len(views) == 2
        of_views, stats = apply(params, state, views[::-1] if query_leads else views)
        outputs = {"features": of_views.pop("pooled")[0]}
        if query_leads:
            of_views = {name: values[::-1] for name, values in of_views.items()}
        for name, values in of_views.items():
            outputs |= dict(zip((f"anchor_{name}", f"query_{name}"), values, strict=False))
        return outputs, state | {"online": stats}

    def encode(params: Tree, state: Tree, images: Images) -> dict[str, Float[Array, "B ..."]]:
        variables = {
            "params": params["online"]["encoder"],
            "batch_stats": state.get("online", {}).get("encoder", {}),
        }
        outputs: Any = network.encoder.apply(variables, images, train=False)
        return outputs

    def embed(params: Tree, state: Tree, views: Views) -> dict[str, Float32[Array, "V b _"]]:
        of_views, _ = apply(params, state, views)
        return {name: of_views[name] for name in ("pooled", "projection")}

    return Online(init, forward, encode, embed)


def apply_views(
    network: nn.Module, params: Tree, batch_stats: Tree, views: Views, *, running_views: int
) -> tuple[dict[str, Float32[Array, "V b _"]], Tree]:
    """Encodes V views of one size as one batch in training mode; returns (outputs, statistics)."""
    outputs, updated = network.apply(
        {"params": params, "batch_stats": batch_stats},
        jnp.concatenate(views),
        train=True,
        num_views=len(views),
        running_views=running_views,
        mutable=["batch_stats"],
    )
    split = {name: outputs[name].reshape(len(views), len(views[0]), -1) for name in outputs}
    return split, updated.get("batch_stats", {})


def _check_pooled(outputs: Mapping[str, Any], images: int) -> None:
    """Raises ValueError unless an encoder's "pooled" is float32 [images, F]."""
    pooled = outputs.get("pooled")
    if pooled is None or pooled.dtype != jnp.float32 or pooled.ndim != 2 or len(pooled) != images:
        found = "nothing" if pooled is None else f"{pooled.dtype} {list(pooled.shape)}"
        raise ValueError(
            f"the encoder returns {found} as 'pooled': let it return float32 [{images}, F], a "
            "vector for each image."
        )
