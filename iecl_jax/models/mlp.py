"""The MLP that is the projector (reading 18 of docs/paper.md) and the predictor of every method."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from iecl_jax.models import initializers
from iecl_jax.models.batch_norm import BatchNorm

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}


class MLP(nn.Module):
    """An MLP of `num_layers` layers on the features of V views, one after another.

    A hidden layer is Dense, BN (if `hidden_bn`) and the `activation` of ACTIVATIONS. The last
    layer is Dense, BN (if `output_bn`; with scale and bias if `output_affine`). A Dense layer has a
    bias, initially 0, only if no BN follows it. The layers are computed in `dtype` and the last BN
    in float32. See `BatchNorm` for views and groups; without BN they have no effect.
    """

    num_layers: int
    hidden_dim: int
    output_dim: int
    hidden_bn: bool = True
    output_bn: bool = True
    output_affine: bool = False
    activation: str = "relu"
    bn_group: int = 0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "rows F"],
        *,
        train: bool,
        num_views: int = 1,
        running_views: int = 1,
    ) -> Float32[Array, "rows {self.output_dim}"]:
        for i in range(1, self.num_layers + 1):
            last = i == self.num_layers
            normalized = self.output_bn if last else self.hidden_bn
            x = nn.Dense(
                self.output_dim if last else self.hidden_dim,
                use_bias=not normalized,
                kernel_init=initializers.lecun,
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            if normalized:
                x = BatchNorm(
                    use_running_average=not train,
                    num_views=num_views,
                    running_views=running_views,
                    group_size=self.bn_group,
                    axis_name=self.axis_name,
                    affine=self.output_affine or not last,
                    dtype=jnp.float32 if last else self.dtype,
                    name=f"bn{i}",
                )(x)
            x = x if last else ACTIVATIONS[self.activation](x)
        return x.astype(jnp.float32)
