"""Heads that classify every pixel: DeepLabv3 (Chen et al. 2017) and FCN (Long et al. 2015).

The layers and their order are those of torchvision's `models.segmentation`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Key

from iecl_jax.models import initializers
from iecl_jax.models.batch_norm import BatchNorm
from iecl_jax.models.conv import Conv

HEADS = ("deeplab", "fcn")
# {output stride of the encoder: dilations of ASPP}, section 4.1 of Chen et al. 2017; at 32 halved
# once more, so that they cover the same pixels of the image.
RATES = {32: (3, 6, 9), 16: (6, 12, 18), 8: (12, 24, 36)}
Grid = Float[Array, "b h w _"]
Keys = Key[Array, "b"] | None


class ConvNormRelu(nn.Module):
    """A convolution without bias, BN over the devices of `axis_name`, and ReLU."""

    features: int
    kernel_size: int
    dilation: int = 1
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Grid, *, train: bool) -> Grid:
        conv = Conv(
            self.features,
            self.kernel_size,
            train=train,
            dilation=self.dilation,
            dtype=self.dtype,
            name="conv",
        )
        norm = BatchNorm(
            use_running_average=not train,
            axis_name=self.axis_name,
            relu=True,
            dtype=self.dtype,
            name="bn",
        )
        return norm(conv(x))


class FCN(nn.Module):
    """A 3x3 convolution to a quarter of the channels, dropout, and a linear layer.

    It returns logits, float32 [b, h, w, num_classes]. `keys`, one for each image, draw the dropout;
    without keys nothing is dropped.
    """

    num_classes: int
    dropout: float = 0.1
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Grid, *, train: bool, keys: Keys = None) -> Float32[Array, "b h w _"]:
        inner = ConvNormRelu(
            x.shape[-1] // 4, 3, axis_name=self.axis_name, dtype=self.dtype, name="inner"
        )
        x = dropout(keys, inner(x, train=train), self.dropout)
        return _logits(x, self.num_classes)


class DeepLab(nn.Module):
    """Atrous spatial pyramid pooling (section 3.3), a 3x3 convolution and a linear layer.

    The pyramid has convolutions 1x1 and, with the dilations `rates`, 3x3, beside the mean over the
    image. It returns logits, float32 [b, h, w, num_classes]. See `FCN` for `keys`.
    """

    num_classes: int
    rates: tuple[int, ...]
    channels: int = 256
    dropout: float = 0.5
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Grid, *, train: bool, keys: Keys = None) -> Float32[Array, "b h w _"]:
        layer = functools.partial(
            ConvNormRelu, self.channels, axis_name=self.axis_name, dtype=self.dtype
        )
        branches = [layer(1, name="aspp0")(x, train=train)]
        branches += [
            layer(3, dilation=rate, name=f"aspp{i}")(x, train=train)
            for i, rate in enumerate(self.rates, 1)
        ]
        mean = x.astype(jnp.float32).mean((1, 2), keepdims=True).astype(self.dtype)
        pooled = layer(1, name="pooling")(mean, train=train)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = layer(1, name="project")(jnp.concatenate(branches, -1), train=train)
        x = layer(3, name="last")(dropout(keys, x, self.dropout), train=train)
        return _logits(x, self.num_classes)


class Segmenter(nn.Module):
    """A head on the last stage of an encoder and, if there is one, an auxiliary one on the third.

    It returns {"logits": float32 [b, h, w, C]} and, with `auxiliary`, {"auxiliary": ...}.
    """

    head: nn.Module
    auxiliary: nn.Module | None = None

    def __call__(
        self, stages: Mapping[str, Float[Array, "b ..."]], *, train: bool, keys: Keys = None
    ) -> dict[str, Float32[Array, "b _ _ _"]]:
        found = {"logits": self.head(stages["stage4"], train=train, keys=keys)}
        if self.auxiliary is not None:
            if keys is not None:
                keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
            found["auxiliary"] = self.auxiliary(stages["stage3"], train=train, keys=keys)
        return found


def make(
    name: str,
    num_classes: int,
    *,
    output_stride: int,
    channels: int = 256,
    auxiliary: bool,
    axis_name: str | None = None,
    dtype: Any = jnp.float32,
) -> Segmenter:
    """Returns the heads for an encoder of an output stride of 32, 16 or 8.

    Args:
      name: "deeplab" or "fcn".
      num_classes: number of classes, with the background.
      output_stride: that of the encoder.
      channels: width of DeepLab.
      auxiliary: whether the third stage has an FCN head too, as helps the training.
      axis_name: the axis of the devices, over which BN statistics are.
      dtype: type of the activations; logits are float32.
    """
    common: dict[str, Any] = {"axis_name": axis_name, "dtype": dtype}
    head: nn.Module = FCN(num_classes, **common)
    if name == "deeplab":
        head = DeepLab(num_classes, RATES[output_stride], channels, **common)
    return Segmenter(head, FCN(num_classes, **common) if auxiliary else None)


def upsampled(
    logits: jax.Array, shown: jax.Array, source: jax.Array, *, canvas: int, side: int
) -> jax.Array:
    """Interpolates the logits of an image bilinearly at the pixels of the image itself.

    Args:
      logits: float32 [h, w, C], of a canvas.
      shown: int32 [2], height and width that the image has on the canvas, at its top left.
      source: int32 [2], its own height and width, at most `side`.
      canvas: side of the canvas in pixels.
      side: side of the result.

    Returns:
      float32 [side, side, C]; what lies beyond the image has no meaning.
    """

    def weights(axis: int) -> jax.Array:
        cells = logits.shape[axis]
        pixels = (jnp.arange(side, dtype=jnp.float32) + 0.5) * (shown[axis] / source[axis])
        at = jnp.clip(pixels * (cells / canvas) - 0.5, 0, cells - 1)
        distance = jnp.abs(at[:, None] - jnp.arange(cells, dtype=jnp.float32)[None])
        return jnp.maximum(1 - distance, 0)

    exact = jax.lax.Precision.HIGHEST
    rows = jnp.einsum("yh,hwc->ywc", weights(0), logits, precision=exact)
    return jnp.einsum("xw,ywc->yxc", weights(1), rows, precision=exact)


def dropout(keys: Keys, x: Grid, rate: float) -> Grid:
    """Sets a share `rate` of x to 0 and divides the rest by 1 - rate; without keys, returns x.

    Each image has its own key, so what is dropped does not depend on the number of devices.
    """
    if keys is None or rate == 0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def _logits(x: Grid, num_classes: int) -> Float32[Array, "b h w _"]:
    # In float32: a softmax and an argmax over classes follow.
    dense = nn.Dense(num_classes, kernel_init=initializers.lecun, name="logits")
    return dense(x.astype(jnp.float32))
