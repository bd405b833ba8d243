"""The feature pyramid: the stages of an encoder, brought to one width (Lin et al. 2017)."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

_KAIMING_UNIFORM = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FPN(nn.Module):
    """Maps the stages of an encoder, each half as large as the one before, to a pyramid.

    A 1x1 convolution brings each stage to `width` channels, the smaller result is added to the
    larger one, each pixel of it four times, and a 3x3 convolution follows. One more level is every
    second pixel of the last. It is torchvision's `ops.FeaturePyramidNetwork` with LastLevelMaxPool,
    and has its names.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, stages: tuple[Float[Array, "B _ _ _"], ...]
    ) -> tuple[Float[Array, "B _ _ {self.width}"], ...]:
        def conv(size: int, name: str, x):
            layer = nn.Conv(
                self.width,
                (size, size),
                padding=size // 2,
                kernel_init=_KAIMING_UNIFORM,
                dtype=self.dtype,
                name=name,
            )
            return layer(x)

        pyramid: list[Array] = []
        above = None
        for i in reversed(range(len(stages))):
            inner = conv(1, f"inner_blocks_{i}", stages[i])
            above = inner if above is None else inner + above.repeat(2, axis=1).repeat(2, axis=2)
            pyramid.insert(0, conv(3, f"layer_blocks_{i}", above))
        return (*pyramid, pyramid[-1][:, ::2, ::2])
