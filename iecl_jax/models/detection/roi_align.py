"""RoIAlign: the features inside of boxes, resampled to a fixed size (He et al. 2017)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from iecl_jax.models.detection import boxes as boxes_lib

_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4  # a box of 224 x 224 is taken from level 4


def roi_align(
    feature: Float[Array, "H W C"],
    boxes: Float32[Array, "n 4"],
    *,
    output_size: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    weights: Float32[Array, "n"] | None = None,
) -> Float[Array, "n {output_size} {output_size} C"]:
    """Returns the mean of bilinear samples in each of output_size x output_size bins of a box.

    As in torchvision, a sample up to one cell outside of the feature has the value at the edge, and
    one further out is 0.

    Args:
      feature: one level of one image.
      boxes: in pixels of the canvas.
      output_size: number of bins per axis.
      scale: cells of the feature per pixel of the canvas.
      sampling_ratio: samples per bin and axis; 0 takes one per cell that a bin is long, rounded up.
      aligned: whether the centre of the first cell is at .5 (detectron2), or at 0 and no box is
        less than a cell long (torchvision).
      weights: a factor for the samples of each box; None = 1.

    The samples are two matrix products, not a gather: the gradient of a gather is a sum in an order
    that a GPU does not fix, and the same run would not give the same bits.
    """

    def along(axis: int):
        low, high = boxes[:, axis] * scale, boxes[:, axis + 2] * scale
        size = feature.shape[1 - axis]
        return _axis_weights(low, high, size, output_size, sampling_ratio, aligned)

    x, y = along(0), along(1)
    if weights is not None:
        y = y * weights[:, None, None]
    rows = jnp.einsum("nph,hwc->npwc", y.astype(feature.dtype), feature)
    return jnp.einsum("nqw,npwc->npqc", x.astype(feature.dtype), rows)


def _axis_weights(
    low: Float32[Array, "n"],
    high: Float32[Array, "n"],
    size: int,
    bins: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float32[Array, "n {bins} {size}"]:
    """Returns how much each cell of an axis adds to each bin of a box from `low` to `high`."""
    start = low - 0.5 if aligned else low
    length = high - low if aligned else jnp.maximum(high - low, 1)
    if sampling_ratio:
        most, count = sampling_ratio, jnp.full_like(length, sampling_ratio)
    else:
        # A box on the feature is at most as long as it is; one cell more for rounding.
        most, count = math.ceil((size + 1) / bins), jnp.ceil(length / bins)
    sample = jnp.arange(most, dtype=jnp.float32)[None, None, :]
    divisor = jnp.maximum(count, 1)[:, None, None]
    place = jnp.arange(bins, dtype=jnp.float32)[None, :, None] + (sample + 0.5) / divisor
    at = start[:, None, None] + place * (length / bins)[:, None, None]  # [n, bins, most]
    counts = (at >= -1) & (at <= size) & (sample < count[:, None, None])
    cells = jnp.arange(size, dtype=jnp.float32)[None, None, None, :]
    shares = jnp.maximum(1 - jnp.abs(jnp.clip(at, 0, size - 1)[..., None] - cells), 0)
    return jnp.where(counts[..., None], shares, 0).sum(2) / divisor


def levels(boxes: Float32[Array, "n 4"], lowest: int, highest: int) -> Int32[Array, "n"]:
    """Returns the level of the pyramid from which each box is taken; level k has the stride 2^k.

    It is floor(4 + log2(sqrt(area) / 224) + 1e-6), at least `lowest` and at most `highest`.

    Reference: Lin et al. 2017 (FPN), Eq. 1; torchvision's `ops.poolers` for the 1e-6.
    """
    size = jnp.sqrt(jnp.maximum(boxes_lib.area(boxes), 1e-12))
    level = jnp.floor(_CANONICAL_LEVEL + jnp.log2(size / _CANONICAL_SIZE) + 1e-6)
    return jnp.clip(level, lowest, highest).astype(jnp.int32)


def pyramid_roi_align(
    pyramid: tuple[Float[Array, "_ _ C"], ...],
    boxes: Float32[Array, "n 4"],
    *,
    canvas: int,
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Array, "n {output_size} {output_size} C"]:
    """Returns `roi_align` of each box on its level of the pyramid of one image.

    Args:
      pyramid: levels of falling size, each a power of two smaller than the canvas.
      boxes: in pixels of the canvas.
      canvas: height of the canvas in pixels.
      output_size, sampling_ratio, aligned: see `roi_align`.

    Every level resamples all boxes, and those of other levels with the weight 0.
    """
    exponents = [round(math.log2(canvas / feature.shape[0])) for feature in pyramid]
    level = levels(boxes, exponents[0], exponents[-1])
    found = [
        roi_align(
            feature,
            boxes,
            output_size=output_size,
            scale=2.0**-exponent,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            weights=(level == exponent).astype(jnp.float32),
        )
        for feature, exponent in zip(pyramid, exponents, strict=True)
    ]
    return jax.tree.reduce(jnp.add, found)
