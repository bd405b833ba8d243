"""Batch normalisation over all devices, over groups of images, and over several views at once."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32

from iecl_jax.models import collectives


class BatchNorm(nn.Module):
    """Normalises every channel (last axis) of x [V * b, ..., C] by batch statistics in float32.

    The batch holds V views one after another; each has statistics of its own, as if the network had
    been called once a view. Statistics are over the global batch (`group_size` 0, synchronised over
    `axis_name`) or over groups of `group_size` consecutive images of the global batch, the same
    groups on any number of devices. Running statistics move with the mean over groups of the first
    `running_views` views. Variances are biased.

    Raises:
      ValueError: the group neither divides nor is a multiple of the images of a device.
    """

    use_running_average: bool
    num_views: int = 1
    running_views: int = 1
    group_size: int = 0
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    affine: bool = True
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "rows *inner C"]) -> Float[Array, "rows *inner C"]:
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value[None, None], running_var.value[None, None]
        else:
            mean, var = self._batch_statistics(x)
            if not self.is_initializing():
                self._move(running_mean, mean)
                self._move(running_var, var)

        multiplier = jax.lax.rsqrt(var + self.epsilon)  # [V, G, C], or [1, 1, C] when running
        shift = -mean * multiplier
        if self.affine:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32)[None, None]
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)[None, None]
            multiplier, shift = multiplier * scale, shift * scale + bias
        blocks = multiplier.shape[0] * multiplier.shape[1]
        rows = (blocks,) + (1,) * (x.ndim - 1) + (channels,)
        y = x.reshape(blocks, -1, *x.shape[1:]).astype(jnp.float32)
        y = y * multiplier.reshape(rows) + shift.reshape(rows)
        return y.astype(self.dtype).reshape(x.shape)

    def _batch_statistics(
        self, x: Float[Array, "rows *inner C"]
    ) -> tuple[Float32[Array, "V G C"], Float32[Array, "V G C"]]:
        """Mean and variance; G is 1 where a group holds a device's images."""
        local = x.shape[0] // self.num_views
        group = 0 if self.is_initializing() else self.group_size  # init may use fewer images
        if group and local % group and group % local:
            raise ValueError(
                f"bn_group={group} neither divides nor is a multiple of the {local} images of a "
                "device: choose one that does."
            )
        inside = min(group or local, local)  # images of a group on this device
        blocks = x.astype(jnp.float32).reshape(self.num_views, local // inside, -1, x.shape[-1])
        moments = jnp.stack([blocks.mean(2), jnp.square(blocks).mean(2)])
        if self._synchronised and (not group or group > local):
            moments = collectives.mean(moments, self.axis_name, devices=group // local)
        mean, mean_square = moments
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0)

    def _move(self, running: nn.Variable, new: Float32[Array, "V G C"]) -> None:
        new = new[: self.running_views].mean((0, 1))
        if self._synchronised and self.group_size:
            new = collectives.mean(new, self.axis_name)
        running.value = self.momentum * running.value + (1 - self.momentum) * new

    @property
    def _synchronised(self) -> bool:
        return self.axis_name is not None and not self.is_initializing()
