"""ResNet v1.5 (He et al. 2016), with the module names of torchvision.

In v1.5 the 3x3 convolution of a bottleneck has the stride, not the first 1x1.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax import linen as nn
from jaxtyping import Array, Float

from iecl_jax.config.rules import WIDTH, WIDTH_OR_NONE, Rule
from iecl_jax.config.section import Section, key
from iecl_jax.models import initializers, maxima, precision
from iecl_jax.models.batch_norm import BatchNorm
from iecl_jax.models.conv import Conv, Step, spectral_norms

# {name: (number of blocks in each stage, whether they are bottlenecks)}
ARCHITECTURES = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
}
NAMES = tuple(ARCHITECTURES)
STRIDE = Rule(lambda value: value in (32, 16, 8), "32, 16 or 8")


class Settings(Section):
    """The settings of a ResNet."""

    stem = key(
        "imagenet", ("imagenet", "cifar"), "imagenet: 7x7, stride 2, max-pool; cifar: 3x3, stride 1"
    )
    width = key(64, WIDTH, "channels of the first stage")
    feature_dim = key(0, WIDTH_OR_NONE, "outputs of a linear layer after pooling; 0 = no layer")
    spectral_norm = key(True, None, "divide every convolution by its largest singular value")
    remat = key(
        False, None, "less memory, a third more work: the backward pass recomputes the blocks"
    )
    zero_init_residual = key(
        False, None, "initialise the last BN scale of each residual branch to 0"
    )
    output_stride = key(
        32,
        STRIDE,
        "pixels of the image per pixel of the last stage; below 32, late stages are dilated",
    )


def make(config: ml_collections.ConfigDict, *, axis_name: str | None = None) -> "ResNet":
    """Returns the ResNet of `config.encoder`; BN statistics are over the devices of `axis_name`."""
    return of_blocks(config, *ARCHITECTURES[config.encoder.name], axis_name=axis_name)


def depth(name: str) -> int:
    """Returns the stage of the part of this name: 0 = stem, 1 to 4, 5 = the layer after pooling."""
    if name.startswith("layer"):
        return int(name[len("layer") : name.index("_")])
    return 5 if name == "feature" else 0


def of_blocks(
    config: ml_collections.ConfigDict,
    stages: tuple[int, ...],
    bottleneck: bool,
    *,
    axis_name: str | None,
) -> "ResNet":
    """Returns a ResNet of the given stages, with the settings of `config.encoder`.

    See `ARCHITECTURES` for `stages` and `bottleneck`.
    """
    settings = config.encoder
    return ResNet(
        stages,
        bottleneck,
        stem=settings.stem,
        width=settings.width,
        feature_dim=settings.feature_dim,
        spectral_norm=settings.spectral_norm,
        zero_init_residual=settings.zero_init_residual,
        bn_group=settings.bn_group,
        remat=settings.remat,
        output_stride=settings.output_stride,
        axis_name=axis_name,
        dtype=precision.compute_dtype(config),
    )


class Block(nn.Module):
    """A basic block (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1 to 4 x width); BN follows each conv.

    `dilations` are those of the convolutions up to the one with the stride, and of those after it.
    `norms` has the steps of power iteration of its convolutions, if they are made (see `Conv`).
    """

    width: int
    stride: int
    bottleneck: bool
    zero_init: bool
    conv: Any
    norm: Any
    dilations: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], norms: Mapping[str, Step] | None = None
    ) -> Float[Array, "B _ _ _"]:
        norms = norms or {}
        out = 4 * self.width if self.bottleneck else self.width
        first, second = self.dilations
        plan = [(self.width, 3, self.stride, first), (out, 3, 1, second)]
        if self.bottleneck:
            plan = [(self.width, 1, 1, 1), (self.width, 3, self.stride, first), (out, 1, 1, 1)]
        y = x
        for i, (features, size, stride, dilation) in enumerate(plan, 1):
            last = i == len(plan)
            init = nn.initializers.zeros if last and self.zero_init else nn.initializers.ones
            name = f"conv{i}"
            conv = self.conv(features, size, stride=stride, dilation=dilation, name=name)
            y = conv(y, norms.get(name))
            y = self.norm(scale_init=init, relu=not last, name=f"bn{i}")(y)
        if x.shape != y.shape:
            name = "downsample_conv"
            x = self.conv(out, 1, stride=self.stride, name=name)(x, norms.get(name))
            x = self.norm(name="downsample_bn")(x)
        with jax.named_scope("relu"):
            return maxima.relu(x + y)


class ResNet(nn.Module):
    """A ResNet from the images of V views, one after another, to features.

    A call returns {"stage1": [V * b, h, w, D], "stage2", ..., "pooled": float32 [V * b, F]}.
    `stages` has the number of blocks of each stage. The blocks of the first stage have `width`
    channels (their outputs four times as many if they are bottlenecks), and each stage doubles the
    channels. If `feature_dim` is above 0, a linear layer to that many features follows the pooling.
    A stage that would make a pixel of its output more than `output_stride` pixels of the image has
    no stride, and what follows it is dilated. It so computes what it does with the stride, and the
    pixels between (Chen et al. 2017, section 3.1). The parameters are the same.
    With `remat`, only the input of each block is stored for the backward pass, which computes the
    rest again. See `BatchNorm` for views and groups.
    """

    stages: tuple[int, ...]
    bottleneck: bool
    stem: str = "imagenet"
    width: int = 64
    feature_dim: int = 0
    spectral_norm: bool = False
    zero_init_residual: bool = False
    bn_group: int = 0
    axis_name: str | None = None
    remat: bool = False
    output_stride: int = 32
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "rows H W 3"],
        *,
        train: bool,
        num_views: int = 1,
        running_views: int = 1,
    ) -> dict[str, Float[Array, "rows ..."]]:
        conv = functools.partial(
            Conv, train=train, spectral_norm=self.spectral_norm, dtype=self.dtype
        )
        norm = functools.partial(
            BatchNorm,
            use_running_average=not train,
            num_views=num_views,
            running_views=running_views,
            group_size=self.bn_group,
            axis_name=self.axis_name,
            dtype=self.dtype,
        )
        known = {} if self.is_initializing() else self.variables
        norms = spectral_norms(known.get("params", {}), known.get("batch_stats", {}))
        x, step = x.astype(self.dtype), norms.get("conv1")
        if self.stem == "imagenet":
            x = norm(relu=True, name="bn1")(conv(self.width, 7, stride=2, name="conv1")(x, step))
            with jax.named_scope("max_pool"):
                x = maxima.max_pool(x)
        else:
            x = norm(relu=True, name="bn1")(conv(self.width, 3, name="conv1")(x, step))
        block = nn.remat(Block) if self.remat else Block
        outputs = {}
        total, dilation = 4 if self.stem == "imagenet" else 1, 1
        for i, depth in enumerate(self.stages, 1):
            before, stride = dilation, 2 if i > 1 else 1
            if total * stride > self.output_stride:
                dilation, stride = 2 * dilation, 1
            total *= stride
            for j in range(depth):
                x = block(
                    width=self.width * 2 ** (i - 1),
                    stride=stride if j == 0 else 1,
                    dilations=(before if j == 0 else dilation, dilation),
                    bottleneck=self.bottleneck,
                    zero_init=self.zero_init_residual,
                    conv=conv,
                    norm=norm,
                    name=f"layer{i}_{j}",
                )(x, norms.get(f"layer{i}_{j}", {}))
            outputs[f"stage{i}"] = x
        pooled = x.astype(jnp.float32).mean((1, 2))
        if self.feature_dim:
            pooled = nn.Dense(self.feature_dim, kernel_init=initializers.lecun, name="feature")(
                pooled
            )
        return outputs | {"pooled": pooled}
