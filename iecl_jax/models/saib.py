"""SAIB, the Sample Augmentation Incremental Block (section 3.3, appendix C and figure 6)."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from iecl_jax.models import initializers
from iecl_jax.models.batch_norm import BatchNorm
from iecl_jax.models.sliced_conv import convolve_as

VARIANTS = ("paper", "expansive")


def patchify(
    images: Float[Array, "B H W C"], group_size: int, patch_size: int
) -> Float[Array, "groups rows pixels {group_size}"]:
    """Returns [B/g, C * H/p * W/p, p * p, g]: the g images of a group become the channels.

    The rows are ordered by colour channel, then patch row, then patch column. The pixels of a patch
    are ordered row by row. g is `group_size` and p is `patch_size`.
    """
    b, height, width, c = images.shape
    g, p = group_size, patch_size
    x = images.reshape(b // g, g, height // p, p, width // p, p, c)
    x = x.transpose(0, 6, 2, 4, 3, 5, 1)
    return x.reshape(b // g, c * (height // p) * (width // p), p * p, g)


def unpatchify(
    patches: Float[Array, "groups rows pixels g"], shape: tuple[int, ...], patch_size: int
) -> Float[Array, "B H W C"]:
    """Inverts `patchify`: returns images of `shape` [B, H, W, C]."""
    _, height, width, c = shape
    p, g = patch_size, patches.shape[-1]
    x = patches.reshape(-1, c, height // p, width // p, p, p, g)
    return x.transpose(0, 6, 2, 4, 3, 5, 1).reshape(shape)


class SAIBBlock(nn.Module):
    """The paper's block, which maps images X to images X' of the same shape and dtype.

        P  = patchify(X) + positional encoding
        a  = swish(BN(W1 P))
        f  = BN(W4 swish(BN(W3 swish(BN(W2 a)))))
        P' = P + a + f if `inner_skip`, else P + f
        X' = X + unpatchify(P')

    W2 is a 3x3 convolution over (rows, pixels) from g to 2g channels; the others are 1x1. The scale
    of the last BN starts at `residual_scale`. BN statistics are over all groups of all devices. The
    shapes of the parameters depend only on the group size, the patch size and the image size.
    """

    group_size: int
    patch_size: int
    inner_skip: bool = True
    residual_scale: float = 1.0
    conv3x3: str = "conv"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        g = self.group_size
        patches = patchify(images.astype(self.dtype), g, self.patch_size)
        positions = self.param(
            "positions", initializers.small, (1, *patches.shape[1:3], 1), jnp.float32
        )
        patches = patches + positions.astype(self.dtype)

        def layer(
            x: Float[Array, "n h w c"], features: int, size: int, index: int, scale: float = 1.0
        ) -> Float[Array, "n h w {features}"]:
            kernel = self.param(
                f"conv{index}",
                initializers.he_fan_in,
                (size, size, x.shape[-1], features),
                jnp.float32,
            ).astype(self.dtype)
            return BatchNorm(
                use_running_average=not train,
                axis_name=self.axis_name,
                scale_init=nn.initializers.constant(scale),
                dtype=self.dtype,
                name=f"bn{index}",
            )(convolve_as(self.conv3x3 if size == 3 else "conv", x, kernel))

        a = nn.swish(layer(patches, g, 1, 1))
        f = nn.swish(layer(a, 2 * g, 3, 2))
        f = nn.swish(layer(f, 2 * g, 1, 3))
        f = layer(f, g, 1, 4, scale=self.residual_scale)
        patches = patches + (a + f if self.inner_skip else f)
        return images + unpatchify(patches, images.shape, self.patch_size).astype(images.dtype)


class ExpansiveBlock(nn.Module):
    """A block that cannot contract, which maps images X to images X' of the same shape and dtype.

        P  = patchify(X) + positional encoding
        X' = unpatchify(P + W^T phi(W P)),   phi(x) = softplus(x) - log 2

    It takes the place of `SAIBBlock`. W is a 3x3 convolution over (rows, pixels) from g to 2g
    channels, and W^T is its exact transpose. The slope D of phi lies in (0, 1). So the Jacobian
    I + W^T D W is symmetric with eigenvalues of at least 1, and log|det J| >= 0 for every image and
    every W. The paper claims this of its own block (appendix C). There is no BN, because batch
    statistics would break the property. There is one identity; the paper's block has two, or three
    with `inner_skip`.

    W is drawn such that E[W^T W] = `residual_scale` I, except at the zero-padded borders.
    """

    group_size: int
    patch_size: int
    residual_scale: float = 1.0
    conv3x3: str = "conv"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        g = self.group_size
        patches = patchify(images.astype(self.dtype), g, self.patch_size)
        positions = self.param(
            "positions", initializers.small, (1, *patches.shape[1:3], 1), jnp.float32
        )
        patches = patches + positions.astype(self.dtype)
        # A diagonal entry of W^T W is the sum of squares of 9 * 2g weights.
        deviation = math.sqrt(self.residual_scale / (9 * 2 * g))
        kernel = self.param("conv", initializers.normal(deviation), (3, 3, g, 2 * g), jnp.float32)
        kernel = kernel.astype(self.dtype)
        hidden = nn.softplus(convolve_as(self.conv3x3, patches, kernel)) - math.log(2)
        # The transpose of a convolution has the kernel flipped and its channels swapped.
        transposed = kernel[::-1, ::-1].swapaxes(2, 3)
        change = convolve_as(self.conv3x3, hidden, transposed)
        change = positions.astype(self.dtype) + change
        return images + unpatchify(change, images.shape, self.patch_size).astype(images.dtype)


class SAIB(nn.Module):
    """SAIB: `num_blocks` blocks in a row (Table 4), from images to images of the same shape.

    The blocks are of class `SAIBBlock`, or `ExpansiveBlock` if `variant` is "expansive". A group
    consists of consecutive images of the batch. `conv3x3` is the form of the 3x3 convolutions, see
    `convolve_as`.

    Raises:
      ValueError: `group_size` does not divide the batch, or `patch_size` the image.
    """

    group_size: int
    patch_size: int
    variant: str = "paper"
    num_blocks: int = 1
    inner_skip: bool = True
    residual_scale: float = 1.0
    conv3x3: str = "conv"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W C"], *, train: bool) -> Float[Array, "B H W C"]:
        b, height, width, _ = images.shape
        if b % self.group_size:
            raise ValueError(
                f"saib.group_size={self.group_size} does not divide the {b} images of a device: "
                "choose a divisor, or fewer devices."
            )
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"saib.patch_size={self.patch_size} does not divide images of {height} x {width}."
            )
        shared = {
            "group_size": self.group_size,
            "patch_size": self.patch_size,
            "residual_scale": self.residual_scale,
            "conv3x3": self.conv3x3,
            "dtype": self.dtype,
        }
        for i in range(1, self.num_blocks + 1):
            name = f"block{i}"
            if self.variant == "expansive":
                images = ExpansiveBlock(**shared, name=name)(images)
            else:
                images = SAIBBlock(
                    **shared, inner_skip=self.inner_skip, axis_name=self.axis_name, name=name
                )(images, train=train)
        return images
