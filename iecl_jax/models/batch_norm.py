"""Batch normalisation over all devices or over groups of images, for several views at once."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Float32

from iecl_jax.models import collectives

_SAMPLE = 16  # One row of so many gives a value near the mean.
Moments = tuple[Float32[Array, "V G C"], Float32[Array, "V G C"]]


class _Devices(NamedTuple):
    """The devices that share statistics: consecutive ones on `axis_name`; None = a device alone.

    `number` says how many; 0 = all.
    """

    axis_name: str | None
    number: int

    def gathered(self, parts: Any) -> Any:
        """Returns every leaf of each of the devices: [...] -> [D, ...]."""
        parts = jax.tree.map(lambda part: part[None], parts)
        return collectives.gather(parts, self.axis_name, devices=self.number)


def one_pass(x: Float[Array, "V G n *inner C"]) -> Moments:
    """Returns the mean and the biased variance over all axes but V, G and C, in one pass over x.

    E[x^2] - E[x]^2 loses all digits where the mean is large beside the deviation. So a value near
    the mean is subtracted first: the mean of one row of 16. The mean of a share p of the rows is at
    most sqrt((1 - p) / p) deviations away, so that four bits are lost at most.
    """
    rows = x.reshape(*x.shape[:2], -1, x.shape[-1])
    near = rows[:, :, ::_SAMPLE].astype(jnp.float32).mean(2)
    centred = rows.astype(jnp.float32) - near[:, :, None]
    offset = centred.mean(2)
    return near + offset, jnp.square(centred).mean(2) - jnp.square(offset)


def two_passes(x: Float[Array, "V G n *inner C"]) -> Moments:
    """Returns the same as `one_pass`. It is faster on a CPU, where operations take the time."""
    x = x.astype(jnp.float32)
    mean = _mean(x)
    return mean, _mean(jnp.square(x - _beside(x, mean)))


def _mean(x):
    """Returns the mean over all axes but V, G and C."""
    return x.mean(tuple(range(2, x.ndim - 1)))


def _beside(x, statistic):
    """Returns a statistic [V, G, C] in the shape that broadcasts with x."""
    return statistic.reshape(*statistic.shape[:2], *(1,) * (x.ndim - 3), statistic.shape[-1])


def _row_major(x):
    """Fixes the layout of x on a GPU, where XLA would transpose x twice beside 1x1 convolutions."""
    fixed = functools.partial(with_layout_constraint, layouts=Layout(tuple(range(x.ndim))))
    return jax.lax.platform_dependent(x, cuda=fixed, default=lambda x: x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _normalise(devices, epsilon, relu, dtype, x, scale, bias):
    """Normalises x by its statistics over n, the inner axes and the devices.

    One function, so that its derivative makes few passes over memory on a GPU: all values of the
    size of x are read and written in their own type, and computed in float32.

    Args:
      devices: the `_Devices` that share the statistics.
      epsilon: what is added to the variance.
      relu: whether max(y, 0) takes the place of y.
      dtype: the type of y.
      x: [V, G, n, ..., C].
      scale, bias: float32 [C].

    Returns:
      (y, mean, variance): y is scale (x - mean) / sqrt(variance + epsilon) + bias, the statistics
      are float32 [V, G, C].
    """
    x = _row_major(x)
    parts = jax.lax.platform_dependent(x, cuda=one_pass, default=two_passes)
    means, variances = devices.gathered(parts)
    mean = means.mean(0)
    # Chan, Golub & LeVeque 1979, for parts of equal size.
    var = jnp.maximum((variances + jnp.square(means - mean[None])).mean(0), 0)
    return _scaled(x, mean, var, epsilon, relu, dtype, scale, bias), mean, var


@_normalise.defjvp
def _(devices, epsilon, relu, dtype, primals, tangents):
    y, mean, var = _normalise(devices, epsilon, relu, dtype, *primals)
    x, dx = primals[0].astype(jnp.float32), tangents[0].astype(jnp.float32)
    scale, d_scale, d_bias = (each[None, None] for each in (primals[1], *tangents[1:]))
    d_mean, product = (each.mean(0) for each in devices.gathered((_mean(dx), _mean(x * dx))))
    # d var = 2 E[(x - mean) dx]. The product is expanded, so that the backward pass multiplies x
    # and not x - mean, which XLA would store for it in float32, beside x. It loses no digits there:
    # the gradient of x is x * a + b, as y is.
    covariance = product - mean * d_mean
    inverse = jax.lax.rsqrt(var + epsilon)
    multiplier = inverse * scale
    d_multiplier = inverse * d_scale - multiplier * jnp.square(inverse) * covariance
    d_shift = d_bias - d_mean * multiplier - mean * d_multiplier
    dy = dx * _beside(x, multiplier) + (x * _beside(x, d_multiplier) + _beside(x, d_shift))
    if relu:
        dy = jnp.where(y != 0, dy, 0)  # see `maxima.relu`
    return (y, mean, var), (dy.astype(dtype), d_mean, 2 * covariance)


def _scaled(x, mean, var, epsilon, relu, dtype, scale, bias):
    """Returns the y of `_normalise` for these statistics."""
    # y = x * multiplier + shift. With (x - mean) * multiplier, x - mean would be stored for the
    # backward pass beside x, and y would be no closer: the rounding of the mean decides.
    multiplier = jax.lax.rsqrt(var + epsilon)
    shift = -mean * multiplier
    multiplier, shift = multiplier * scale[None, None], shift * scale[None, None] + bias[None, None]
    y = x.astype(jnp.float32) * _beside(x, multiplier) + _beside(x, shift)
    return (nn.relu(y) if relu else y).astype(dtype)


class BatchNorm(nn.Module):
    """Normalises every channel (last axis) of x [V * b, ..., C] by batch statistics.

    The batch holds V views one after another. Each view has its own statistics, as if the network
    had been called once per view. If `group_size` is 0, the statistics are over the global batch,
    synchronised over `axis_name`. Otherwise they are over groups of `group_size` consecutive images
    of the global batch, which are the same groups for any number of devices. Variances are biased,
    the running ones too (PyTorch's are unbiased, larger by n / (n - 1)), and all arithmetic is in
    float32; the result has type `dtype`.

    A training call moves the running statistics towards the mean over the groups of the first
    `running_views` views. A call with `use_running_average` normalises by them. With `relu` the
    result is max(y, 0), as that of a ReLU after the module, with fewer passes over memory.

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
    relu: bool = False
    scale_init: Any = nn.initializers.ones
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "rows *inner C"]) -> Float[Array, "rows *inner C"]:
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        scale, bias = jnp.ones(channels), jnp.zeros(channels)
        if self.affine:
            scale = self.param("scale", self.scale_init, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        if self.use_running_average:
            rows = x[None, None]
            mean, var = running_mean.value[None, None], running_var.value[None, None]
            y = _scaled(rows, mean, var, self.epsilon, self.relu, self.dtype, scale, bias)
            return y.reshape(x.shape)
        rows, devices = self._groups(x)
        y, mean, var = _normalise(devices, self.epsilon, self.relu, self.dtype, rows, scale, bias)
        if not self.is_initializing():
            self._move(running_mean, mean)
            self._move(running_var, var)
        return y.reshape(x.shape)

    def _groups(
        self, x: Float[Array, "rows *inner C"]
    ) -> tuple[Float[Array, "V G n *inner C"], _Devices]:
        """Returns x with the rows of each view and of each group, and the devices that share them.

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
        rows = x.reshape(self.num_views, local // inside, inside, *x.shape[1:])
        alone = not self._synchronised or 0 < group <= local
        return rows, _Devices(None if alone else self.axis_name, group // local)

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
