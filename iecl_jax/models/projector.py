"""Projector: MLP with batch normalisation (reading row 18)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from iecl_jax.models import initializers
from iecl_jax.models.batch_norm import BatchNorm


class Projector(nn.Module):
    """[V * b, F] -> float32 [V * b, output_dim]: (Dense-BN-ReLU) x (num_layers - 1), Dense-BN.

    The last BN has neither scale nor bias. See `BatchNorm` for views and groups.
    """

    num_layers: int
    hidden_dim: int
    output_dim: int
    bn_group: int = 0
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, train: bool, num_views: int = 1, running_views: int = 1
    ) -> jax.Array:
        for i in range(1, self.num_layers + 1):
            last = i == self.num_layers
            features = self.output_dim if last else self.hidden_dim
            x = nn.Dense(
                features,
                use_bias=False,
                kernel_init=initializers.lecun,
                dtype=self.dtype,
                name=f"dense{i}",
            )(x)
            x = BatchNorm(
                use_running_average=not train,
                num_views=num_views,
                running_views=running_views,
                group_size=self.bn_group,
                axis_name=self.axis_name,
                affine=not last,
                dtype=jnp.float32 if last else self.dtype,
                name=f"bn{i}",
            )(x)
            x = x if last else nn.relu(x)
        return x
