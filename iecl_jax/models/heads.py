"""Heads beside the projector, for methods that have several."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float32

from iecl_jax.losses.contrastive import l2_normalize
from iecl_jax.losses.product import product
from iecl_jax.models import initializers
from iecl_jax.models.mlp import MLP

Outputs = Mapping[str, Float32[Array, "rows _"]]


class Parallel(nn.Module):
    """MLPs side by side on the encoder's features: {"head1": [rows, K1], "head2": ...}."""

    mlps: Sequence[MLP]

    def __call__(self, outputs: Outputs, **mode: Any) -> dict[str, Float32[Array, "rows _"]]:
        return {f"head{i}": mlp(outputs["pooled"], **mode) for i, mlp in enumerate(self.mlps, 1)}


class Cascade(nn.Module):
    """Linear classifiers one after another, the first on the projection.

    Each returns the cosines of its input with the vectors of its K classes, [rows, K], which are
    the input of the next: {"level0": [rows, widths[0]], "level1": ...}. They are in full float32.
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, outputs: Outputs, **mode: Any) -> dict[str, Float32[Array, "rows _"]]:
        x, levels = outputs["projection"], {}
        for i, width in enumerate(self.widths):
            centers = self.param(f"centers{i}", initializers.lecun, (x.shape[1], width))
            x = product(l2_normalize(x), l2_normalize(centers.T).T)
            levels[f"level{i}"] = x
        return levels
