"""Prototypes: trained vectors of unit length, with which embeddings are compared (SwAV, DINO)."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float32, Key

from iecl_jax.config.rules import NOT_NEGATIVE, WIDTH
from iecl_jax.config.section import Section, key
from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product
from iecl_jax.methods.parts.method import Outputs, Part, Tree


class Settings(Section):
    """The settings of a method with prototypes."""

    class prototypes(Section):
        """The vectors with which embeddings are compared."""

        count = key(3000, WIDTH, "number of prototypes")
        normalization = key(
            "projection",
            ("projection", "gradient"),
            "how their length stays 1: projection = they are divided by it after each update; "
            "gradient = in the loss, and the gradient flows through the division (weight norm)",
        )
        frozen_epochs = key(1.0, NOT_NEGATIVE, "epochs from the start in which they do not move")


class Prototypes(NamedTuple):
    """The functions of the prototypes, which are params["online"]["prototypes"] {"kernel": [K, d]}.

    Attributes:
      init: (key, params) -> params; adds the prototypes.
      scores: (the subtree "prototypes", embeddings of any scale [..., d]) -> cosines [..., K].
      constrain, optimizers: see `methods.Method`.
    """

    init: Callable[[Key[Array, ""], Tree], Tree]
    scores: Callable[[Tree, Float32[Array, "*b d"]], Float32[Array, "*b K"]]
    constrain: Callable[[Tree], Tree]
    optimizers: Mapping[str, Part]


def make(config: ml_collections.ConfigDict, *, steps_per_epoch: int) -> Prototypes:
    """Builds the prototypes of `config.method.prototypes`, as wide as the projections.

    They are drawn like a linear layer of PyTorch: uniformly up to 1 / sqrt(d).
    """
    settings, dim = config.method.prototypes, config.projector.output_dim
    projected = settings.normalization == "projection"

    def init(key: Key[Array, ""], params: Tree) -> Tree:
        bound = 1 / math.sqrt(dim)
        drawn = jax.random.uniform(key, (settings.count, dim), minval=-bound, maxval=bound)
        online = params["online"] | {"prototypes": {"kernel": drawn}}
        return constrain(params | {"online": online})

    def scores(subtree: Tree, embeddings: Float32[Array, "*b d"]) -> Float32[Array, "*b K"]:
        rows = subtree["kernel"]
        return product(l2_normalize(embeddings), (rows if projected else l2_normalize(rows)).T)

    def constrain(params: Tree) -> Tree:
        if not projected:
            return params
        online = params["online"]
        unit = {"kernel": l2_normalize(online["prototypes"]["kernel"])}
        return params | {"online": online | {"prototypes": unit}}

    frozen = round(settings.frozen_epochs * steps_per_epoch)
    return Prototypes(init, scores, constrain, {"prototypes": Part(frozen_steps=frozen)})


def projections(outputs: Outputs) -> Float32[Array, "V b d"]:
    """Returns the projections of all views: anchor, query and then the crops, if there are any."""
    both = jnp.stack([outputs["anchor_projection"], outputs["query_projection"]])
    crops = outputs.get("crop_projection")
    return both if crops is None else jnp.concatenate([both, crops])
