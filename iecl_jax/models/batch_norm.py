"""Batch normalisation over all devices, over groups of images, and over several views at once."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Normalises every channel (last axis) of x [V * b, ..., C] by batch statistics in float32.

    The batch holds V views one after another; each view has statistics of its own, as if the network
    had been called once a view. Statistics are over the global batch (`group_size` 0, synchronised
    over `axis_name`) or over groups of `group_size` consecutive images of the global batch, the same
    groups on any number of devices. Running statistics move with the mean over groups of the first
    `running_views` views. Variances are biased, as in the forward pass of every library.

    Raises:
      ValueError: the group does not divide, or is not a multiple of, the images of a device.
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
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if self.use_running_average:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var = self._batch_statistics(x)  # [V, G, C]
            if not self.is_initializing():
                for running, new in ((running_mean, mean), (running_var, var)):
                    new = new[: self.running_views].mean((0, 1))
                    if self.axis_name is not None and self.group_size:
                        new = jax.lax.pmean(new, self.axis_name)
                    running.value = self.momentum * running.value + (1 - self.momentum) * new

        multiplier = jax.lax.rsqrt(var + self.epsilon)
        shift = -mean * multiplier
        if self.affine:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            scale, bias = (jnp.broadcast_to(v, multiplier.shape) for v in (scale, bias))
            multiplier, shift = multiplier * scale, shift * scale + bias
        if not self.use_running_average:  # one row of statistics for each block of images
            shape = (multiplier.shape[0] * multiplier.shape[1],) + (1,) * (x.ndim - 1) + (channels,)
            blocks = x.reshape(shape[0], -1, *x.shape[1:])
            y = blocks.astype(jnp.float32) * multiplier.reshape(shape) + shift.reshape(shape)
            return y.astype(self.dtype).reshape(x.shape)
        shape = (1,) * (x.ndim - 1) + (channels,)
        y = x.astype(jnp.float32) * multiplier.reshape(shape) + shift.reshape(shape)
        return y.astype(self.dtype)

    def _batch_statistics(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and variance, float32 [V, G, C]; G = 1 where a group covers or exceeds the device."""
        local = x.shape[0] // self.num_views
        group, devices = self.group_size, 1
        if not group or group > local:
            group, devices = local, (group // local if group else 0)
            if self.group_size % local:
                raise ValueError(
                    f"bn_group={self.group_size} is not a multiple of the {local} images of a "
                    "device: choose one that is, or that divides it."
                )
        elif local % group:
            raise ValueError(
                f"bn_group={group} does not divide the {local} images of a device: choose one that does."
            )
        blocks = x.astype(jnp.float32).reshape(self.num_views, local // group, -1, x.shape[-1])
        moments = jnp.stack([blocks.mean(2), jnp.square(blocks).mean(2)])
        if self.axis_name is not None and devices != 1 and not self.is_initializing():
            moments = jax.lax.pmean(
                moments, self.axis_name, axis_index_groups=self._device_groups(devices)
            )
        mean, mean_square = moments
        return mean, jnp.maximum(mean_square - jnp.square(mean), 0)

    def _device_groups(self, devices: int) -> list[list[int]] | None:
        if devices == 0:
            return None
        total = jax.lax.axis_size(self.axis_name)
        return [list(range(i, i + devices)) for i in range(0, total, devices)]
