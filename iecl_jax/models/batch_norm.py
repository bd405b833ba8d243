"""Batch normalisation over all devices or over groups of images, for several views at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Float32

from iecl_jax.models import collectives


@jax.custom_jvp
def _moments(
    x: Float[Array, "V G n C"],
) -> tuple[Float32[Array, "V G C"], Float32[Array, "V G C"]]:
    """Returns the mean and the biased variance over n."""
    x = x.astype(jnp.float32)
    mean = x.mean(2)
    # Not E[x^2] - E[x]^2, which loses all digits where the mean is large beside the deviation.
    # On a GPU, XLA would write x - mean transposed before it sums the squares: fix its layout.
    centred = jax.lax.platform_dependent(
        x - mean[:, :, None],
        cuda=functools.partial(with_layout_constraint, layouts=Layout(tuple(range(x.ndim)))),
        default=lambda centred: centred,
    )
    return mean, jnp.square(centred).mean(2)


@_moments.defjvp
def _(primals, tangents):
    # d var = 2 E[(x - mean) dx]. The product is expanded, so that the backward pass multiplies x
    # and not x - mean, which XLA would store for it in float32, beside x. It loses no digits there:
    # the gradient of x is x * a + b, as y is.
    mean, var = _moments(*primals)
    x, dx = primals[0].astype(jnp.float32), tangents[0].astype(jnp.float32)
    d_mean = dx.mean(2)
    return (mean, var), (d_mean, 2 * ((x * dx).mean(2) - mean * d_mean))


class BatchNorm(nn.Module):
    """Normalises every channel (last axis) of x [V * b, ..., C] by batch statistics.

    The batch holds V views one after another. Each view has its own statistics, as if the network
    had been called once per view. If `group_size` is 0, the statistics are over the global batch,
    synchronised over `axis_name`. Otherwise they are over groups of `group_size` consecutive images
    of the global batch, which are the same groups for any number of devices. Variances are biased,
    the running ones too (PyTorch's are unbiased, larger by n / (n - 1)), and all arithmetic is in
    float32; the result has type `dtype`.

    A training call moves the running statistics towards the mean over the groups of the first
    `running_views` views. A call with `use_running_average` normalises by them.

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
        # y = x * multiplier + shift. With (x - mean) * multiplier, x - mean would be stored for the
        # backward pass beside x, and y would be no closer: the rounding of the mean decides.
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
        """Returns the mean and the variance of each view and of each group on this device.

        G is 1 if a group holds all images of the device.
        """
        local = x.shape[0] // self.num_views
        group = 0 if self.is_initializing() else self.group_size  # init may use fewer images
        if group and local % group and group % local:
            raise ValueError(
                f"bn_group={group} neither divides nor is a multiple of the {local} images of a "
                "device: choose one that does."
            )
        inside = min(group or local, local)  # images of a group on this device
        mean, var = _moments(x.reshape(self.num_views, local // inside, -1, x.shape[-1]))
        if self._synchronised and (not group or group > local):
            return self._merged(mean, var, devices=group // local)
        return mean, var

    def _merged(
        self, mean: Float32[Array, "V G C"], var: Float32[Array, "V G C"], *, devices: int
    ) -> tuple[Float32[Array, "V G C"], Float32[Array, "V G C"]]:
        """Returns the mean and the variance over `devices` neighbours; 0 = over all devices.

        Reference: Chan, Golub & LeVeque 1979, for parts of equal size.
        """
        parts = mean[None], var[None]
        means, variances = collectives.gather(parts, self.axis_name, devices=devices)
        mean = means.mean(0)
        return mean, (variances + jnp.square(means - mean[None])).mean(0)

    def _move(self, running: nn.Variable, new: Float32[Array, "V G C"]) -> None:
        """Moves a running statistic towards the batch's, by a share of 1 - `momentum`."""
        new = new[: self.running_views].mean((0, 1))
        # Without groups, `new` is already the mean over all devices.
        if self._synchronised and self.group_size:
            new = collectives.mean(new, self.axis_name)
        running.value = self.momentum * running.value + (1 - self.momentum) * new

    @property
    def _synchronised(self) -> bool:
        return self.axis_name is not None and not self.is_initializing()
