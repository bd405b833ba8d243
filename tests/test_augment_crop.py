"""Crops against Pillow, and the drawn boxes against torchvision's documented algorithm."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from iecl_jax.config import section
from iecl_jax.data.augment import resizing
from iecl_jax.data.augment.operators import crop

pytestmark = pytest.mark.quick

RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
HEIGHT, WIDTH = 40, 56
BOXES = np.array(
    [(0, 0, 40, 56), (3, 7, 37, 30), (12, 9, 5, 3), (39, 55, 1, 1), (6, 2, 16, 16), (0, 30, 40, 9)],
    np.int32,
)


def pillow_resized_crop(image, box, size, interpolation):
    """Cuts first, then resizes each channel in float32: what lies outside the box has no weight."""
    top, left, height, width = (int(v) for v in box)
    cut = image[top : top + height, left : left + width]
    planes = [
        Image.fromarray(np.ascontiguousarray(cut[..., c])).resize(
            (size, size), RESAMPLE[interpolation], reducing_gap=None
        )
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=-1), 0, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [16, 64])
def test_resized_crop_is_pillows(size, interpolation):
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 1, (HEIGHT, WIDTH, 3)).astype(np.float32)
    image[rng.uniform(size=image.shape) < 0.3] = 1.0  # so that the cubic kernel overshoots
    cut = partial(resizing.resized_crop, size=size, interpolation=interpolation)
    cut = jax.jit(jax.vmap(cut, in_axes=(None, 0)))
    for box, result in zip(BOXES, cut(image, BOXES), strict=True):
        expected = pillow_resized_crop(image, box, size, interpolation)
        np.testing.assert_allclose(result, expected, atol=3e-6, err_msg=str(box))


def test_a_box_of_the_results_size_is_copied():
    image = np.random.default_rng(1).uniform(0, 1, (9, 12, 3)).astype(np.float32)
    for interpolation in RESAMPLE:
        box = np.array([2, 3, 6, 6], np.int32)
        cut = partial(resizing.resized_crop, size=6, interpolation=interpolation)
        result = jax.jit(cut)(image, box)
        np.testing.assert_array_equal(result, image[2:8, 3:9])


def test_resize_takes_the_whole_image():
    image = np.random.default_rng(2).uniform(0, 1, (20, 12, 3)).astype(np.float32)
    expected = pillow_resized_crop(image, (0, 0, 20, 12), 8, "bilinear")
    result = jax.jit(partial(resizing.resize, size=8))(image)
    np.testing.assert_allclose(result, expected, atol=3e-6)


def test_unknown_interpolation_names_the_known_ones():
    with pytest.raises(ValueError, match="'nearest' is unknown: use one of bilinear, bicubic"):
        resizing.resize(jnp.zeros((4, 4, 3)), size=2, interpolation="nearest")


def torchvision_box(rng, height, width, scale, ratio):
    """torchvision's RandomResizedCrop.get_params, one box."""
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(
    "height, width, scale, ratio",
    [
        (64, 64, (0.08, 1.0), (3 / 4, 4 / 3)),
        (300, 200, (0.2, 1.0), (3 / 4, 4 / 3)),  # rejections skew area and aspect
        (40, 64, (0.7, 1.0), (3 / 4, 4 / 3)),  # many fall back
        (5, 6, (0.5, 1.0), (3 / 4, 4 / 3)),  # boxes as wide as the image are common
    ],
)
def test_boxes_are_distributed_as_torchvisions(height, width, scale, ratio):
    count = 4000
    keys = jax.random.split(jax.random.key(3), count)
    sample = jax.vmap(lambda key: crop.sample_box(key, height, width, scale=scale, ratio=ratio))
    boxes = np.asarray(jax.jit(sample)(keys))
    rng = np.random.default_rng(4)
    expected = np.array([torchvision_box(rng, height, width, scale, ratio) for _ in range(count)])
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()
    for name, statistic in {
        "area": lambda b: b[:, 2] * b[:, 3],
        "aspect": lambda b: b[:, 3] / b[:, 2],
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "bottom": lambda b: height - b[:, 0] - b[:, 2],
    }.items():
        test = stats.ks_2samp(statistic(boxes), statistic(expected), method="asymp")
        assert test.pvalue > 1e-3, name


@pytest.mark.parametrize("height, width", [(8, 100), (100, 9), (33, 33)])
def test_fallback_is_the_largest_centred_box(height, width):
    """Boxes as large as this image never fit, unless it is square, where only the whole fits."""
    limits = {"scale": (1.0, 1.0), "ratio": (0.999, 1.001)}
    box = jax.jit(lambda key: crop.sample_box(key, height, width, **limits))(jax.random.key(0))
    expected = torchvision_box(np.random.default_rng(0), height, width, *limits.values())
    np.testing.assert_array_equal(box, expected)


def test_the_operator_cuts_the_sampled_box():
    image = np.random.default_rng(5).uniform(0, 1, (12, 15, 3)).astype(np.float32)
    limits = {"scale": (0.2, 0.9), "ratio": (0.5, 2.0)}
    settings = section.defaults(crop.Settings)
    settings.update(limits | {"interpolation": "bicubic"})

    @jax.jit
    def both(key):
        return crop.apply(key, image, settings, 7), crop.sample_box(key, 12, 15, **limits)

    result, box = both(jax.random.key(6))
    np.testing.assert_allclose(result, pillow_resized_crop(image, box, 7, "bicubic"), atol=3e-6)
