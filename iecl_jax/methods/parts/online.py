"""The network that every method trains: encoder, projector and optionally predictor."""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, NamedTuple

import jax
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
    batch_stats = key(
        "view",
        ("view", "size"),
        "BN statistics are of each view; size: of all views of one size, and in the heads of all",
    )


class SharedSettings(Settings):
    """The same, with the BN statistics of the code of SwAV, DeepCluster-v2 and DINO."""

    batch_stats = key("size", Settings.batch_stats.rule, Settings.batch_stats.text)


class PredictorSettings(Section):
    """The settings of a method with a predictor."""

    class predictor(Section):
        """The MLP that predicts one view's projection from the other's."""

        num_layers = key(2, FEW, "number of layers")
        hidden_dim = key(4096, WIDTH, "units of each hidden layer")


class Network(nn.Module):
    """The networks in a row, from the images of V views one after another.

    A call returns the encoder's outputs, "projection" and, with a predictor, "prediction"
    [V * b, d]. Without a projector, "projection" is what the encoder returns as "pooled". It is
    `encode`, the encoder, and then `heads`, which get its "pooled". The `further` heads get these
    outputs, and theirs are returned, too.
    """

    encoder: nn.Module
    projector: nn.Module | None
    predictor: nn.Module | None = None
    further: nn.Module | None = None

    def __call__(self, images: Images, **mode: Any) -> dict[str, Float[Array, "B ..."]]:
        outputs = self.encode(images, **mode)
        return outputs | self.heads(outputs["pooled"], **mode)

    def encode(self, images: Images, **mode: Any) -> dict[str, Float[Array, "B ..."]]:
        """Returns the encoder's outputs."""
        outputs = self.encoder(images, **mode)
        _check_pooled(outputs, len(images))
        return outputs

    def heads(self, pooled: Float32[Array, "B F"], **mode: Any) -> dict[str, Float32[Array, "B _"]]:
        """Returns "projection" and, with a predictor, "prediction" of pooled features."""
        projection = pooled if self.projector is None else self.projector(pooled, **mode)
        outputs = {"projection": projection}
        if self.predictor is not None:
            outputs["prediction"] = self.predictor(outputs["projection"], **mode)
        if self.further is not None:
            outputs |= self.further({"pooled": pooled} | outputs, **mode)
        return outputs


class Online(NamedTuple):
    """The functions of the trained network; `params` and `state` are those of `methods.Method`.

    Attributes:
      init: (key, views) -> ({"online": parameters}, {"online": statistics}).
      forward: (params, state, views) -> (outputs, state), in training mode, see `apply_views`. The
        outputs are "features" [b, F] of the anchor (of the query if SAIB transforms only the
        anchor), "anchor_projection" and "query_projection" [b, d] if there is a query, and
        "crop_projection" [N, b, d] if there are N further views and the network was made with
        `crops`, which uses them. With a predictor there are "anchor_prediction" and so on, too.
        An output NAME of the further heads is "anchor_NAME" and "query_NAME".
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
    crops: bool = False,
    further: nn.Module | None = None,
) -> Online:
    """Builds the trained network.

    It reads config.{encoder, train.precision}, config.method.{running_stats, batch_stats} and, for
    a projector and a predictor, config.projector and config.method.predictor.

    Args:
      config: a pretraining config.
      axis_name: the axis of the devices; None for a single device.
      projector, predictor: whether there is one.
      crops: whether `forward` uses the views after the second (`parts.crops`).
      further: the heads of `models.heads`, if there are any.
    """
    network = Network(
        build.encoder(config, axis_name),
        build.projector(config, axis_name) if projector else None,
        build.predictor(config, axis_name) if predictor else None,
        further,
    )
    running_views = 2 if config.method.running_stats == "both" else 1
    shared = config.method.batch_stats == "size"
    # Evaluation encodes images without SAIB. So the view without SAIB comes first: it moves the
    # running statistics and gives the online probe its features.
    saib_on_anchor = config.saib.enabled and config.saib.side == "anchor"

    def init(key: Key[Array, ""], views: Views) -> tuple[Tree, Tree]:
        variables = network.init(key, views[0], train=True)
        return {"online": variables["params"]}, {"online": variables.get("batch_stats", {})}

    def apply(params: Tree, state: Tree, views: Views, *, shared: bool):
        return apply_views(
            network,
            params["online"],
            state.get("online", {}),
            views,
            running_views=running_views,
            shared=shared,
            parts=config.train.accumulate,
        )

    def forward(params: Tree, state: Tree, views: Views) -> tuple[Outputs, Tree]:
        large, small = views[:2], views[2:] if crops else []
        query_leads = saib_on_anchor and len(large) == 2
        ordered = [*(large[::-1] if query_leads else large), *small]
        of_views, stats = apply(params, state, ordered, shared=shared)
        outputs = {"features": of_views.pop("pooled")[0]}
        for name, values in of_views.items():
            pair = values[1::-1] if query_leads else values[:2]
            outputs |= dict(zip((f"anchor_{name}", f"query_{name}"), pair, strict=False))
            if small:
                outputs[f"crop_{name}"] = values[2:]
        return outputs, state | {"online": stats}

    def encode(params: Tree, state: Tree, images: Images) -> dict[str, Float[Array, "B ..."]]:
        variables = {
            "params": params["online"]["encoder"],
            "batch_stats": state.get("online", {}).get("encoder", {}),
        }
        outputs: Any = network.encoder.apply(variables, images, train=False)
        return outputs

    def embed(params: Tree, state: Tree, views: Views) -> dict[str, Float32[Array, "V b _"]]:
        of_views, _ = apply(params, state, views, shared=False)
        return {name: of_views[name] for name in ("pooled", "projection")}

    return Online(init, forward, encode, embed)


def of_all_views(outputs: Outputs, name: str) -> list[Float32[Array, "b d"]]:
    """Returns the outputs "anchor_NAME", "query_NAME" and those of "crop_NAME" in a list."""
    crops = outputs.get(f"crop_{name}", ())
    return [outputs[f"anchor_{name}"], outputs[f"query_{name}"], *crops]


def apply_views(
    network: nn.Module,
    params: Tree,
    batch_stats: Tree,
    views: Views,
    *,
    running_views: int,
    shared: bool = False,
    parts: int = 1,
) -> tuple[dict[str, Float32[Array, "V b _"]], Tree]:
    """Encodes V views in training mode; returns ("pooled" and what the heads return, statistics).

    Views of one size are neighbours, and pass the encoder as one batch; the heads get all views as
    one batch.

    Args:
      network: a `Network`.
      params, batch_stats: its variables.
      views: the views.
      running_views: number of views, from the first, that move the running statistics. It counts
        only without `shared`.
      shared: False gives each view its own BN statistics. If it is True, all views of one size
        share them in the encoder and all views in the heads, and so all views of the first size
        move the encoder's running ones (the program of Caron et al. 2020).
      parts: number of parts of the images that pass the encoder one after another. The backward
        pass encodes each part again, so the activations of one part are in memory at a time. The
        results are those of one part, because BN groups lie within a part; `train.accumulate` is
        checked for that. (Gao et al. 2021 do the same for the loss of pairs, as GradCache.)
    """

    def mode(count: int) -> dict[str, Any]:
        many = {"num_views": 1, "running_views": 1}
        own = {"num_views": count, "running_views": min(running_views, count)}
        return {"train": True, "mutable": ["batch_stats"]} | (many if shared else own)

    def encode(views: Float32[Array, "V b H W 3"]):
        count = len(views)
        variables = {"params": params, "batch_stats": batch_stats}
        rows = _rows(views, shared)
        outputs, updated = network.apply(variables, rows, **mode(count), method="encode")
        return _views(outputs["pooled"], count, shared), updated.get("batch_stats", {})

    pooled: list[Float32[Array, "_ b _"]] = []
    moved: Tree = {}
    for _, group in groupby(views, key=lambda view: view.shape):
        found, updated = _in_parts(encode, jnp.stack([*group]), parts)
        # Evaluation sees images of the first size, so only these move the running statistics. And
        # the spectral vectors move once: the kernels of a step are the same for every size.
        moved = moved if pooled else updated
        pooled.append(found)
    everything = pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled)
    heads, updated = network.apply(
        {"params": params, "batch_stats": moved},
        _rows(everything, shared),
        **mode(len(views)),
        method="heads",
    )
    split = {name: _views(values, len(views), shared) for name, values in heads.items()}
    return {"pooled": everything} | split, updated.get("batch_stats", {})


def _in_parts(
    encode: Callable[[Any], tuple[Any, Tree]], views: Float32[Array, "V b H W 3"], parts: int
) -> tuple[Float32[Array, "V b F"], Tree]:
    """Returns what `encode` does, (features [V, b, F], statistics), from parts of the images."""
    if parts == 1:
        return encode(views)
    split = views.reshape(len(views), parts, -1, *views.shape[2:]).swapaxes(0, 1)
    found, stats = jax.lax.map(jax.checkpoint(encode), split)
    joined = found.swapaxes(0, 1).reshape(len(views), -1, found.shape[-1])
    return joined, jax.tree.map(lambda each: each.mean(0), stats)


def _rows(views: Float32[Array, "V b ..."], shared: bool) -> Float32[Array, "rows ..."]:
    """Puts views into one batch: one view after the other, or image by image if `shared`."""
    # Image by image, a BN group has all views of its images, on any number of devices.
    return (views.swapaxes(0, 1) if shared else views).reshape(-1, *views.shape[2:])


def _views(rows: Float32[Array, "rows _"], count: int, shared: bool) -> Float32[Array, "V b _"]:
    """Inverts `_rows`."""
    if shared:
        return rows.reshape(-1, count, rows.shape[-1]).swapaxes(0, 1)
    return rows.reshape(count, -1, rows.shape[-1])


def _check_pooled(outputs: Mapping[str, Any], images: int) -> None:
    """Raises ValueError unless an encoder's "pooled" is float32 [images, F]."""
    pooled = outputs.get("pooled")
    if pooled is None or pooled.dtype != jnp.float32 or pooled.ndim != 2 or len(pooled) != images:
        found = "nothing" if pooled is None else f"{pooled.dtype} {list(pooled.shape)}"
        raise ValueError(
            f"the encoder returns {found} as 'pooled': let it return float32 [{images}, F], a "
            "vector for each image."
        )
