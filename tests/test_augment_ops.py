"""Colour, geometry and filter operators against colorsys, Pillow, SciPy and float64 NumPy."""

import colorsys
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from iecl_jax.config import kinds, section
from iecl_jax.data.augment.operators import blur, flip, gray, jitter, noise, rotate, solarize

pytestmark = pytest.mark.quick

GRAY = np.array([0.2989, 0.587, 0.114])
KEYS = jax.random.split(jax.random.key(0), 4000)


def some_image(seed, height=6, width=7):
    """Random values, with gray, black, white and tied-channel pixels among them."""
    image = np.random.default_rng(seed).uniform(0, 1, (height, width, 3)).astype(np.float32)
    image[0, 0], image[0, 1], image[0, 2] = 0.0, 1.0, 0.25
    image[1, 0], image[1, 1], image[1, 2] = (0.7, 0.7, 0.2), (0.1, 0.9, 0.9), (0.6, 0.3, 0.6)
    return image


def reference_hue(image, shift):
    result = np.empty(image.shape)
    for place in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[place])
        result[place] = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
    return result


def reference_adjustment(name, image, value):
    """torchvision's adjust_{name} on a float tensor, in float64."""
    gray = (image @ GRAY)[..., None]
    if name == "hue":
        return reference_hue(image, value)
    target = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray}[name]
    return np.clip(value * image + (1 - value) * target, 0, 1)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_adjustments(name):
    image = some_image(1)
    adjust = getattr(jitter, f"adjust_{name}")
    for value in (-0.5, -0.23, 0.0, 0.11, 0.5) if name == "hue" else (0.0, 0.4, 1.0, 1.9):
        expected = reference_adjustment(name, image.astype(np.float64), value)
        np.testing.assert_allclose(adjust(image, value), expected, atol=2e-6)


def test_color_jitter_in_all_24_orders():
    image = some_image(2)
    names = ("brightness", "contrast", "saturation", "hue")
    values = {"brightness": 1.6, "contrast": 1.7, "saturation": 1.8, "hue": 0.3}
    orders = np.array(list(itertools.permutations(range(4))), np.int32)
    in_order = jax.jit(
        jax.vmap(
            lambda order: jitter.color_jitter(
                image, order, **{name: jnp.float32(value) for name, value in values.items()}
            )
        )
    )
    results = in_order(orders)
    for order, result in zip(orders, results, strict=True):
        expected = image.astype(np.float64)
        for kind in order:
            expected = reference_adjustment(names[kind], expected, values[names[kind]])
        np.testing.assert_allclose(result, expected, atol=5e-6, err_msg=str(order))
    assert len(np.unique(np.round(np.asarray(results), 3), axis=0)) > 12  # the order matters


def test_color_jitter_leaves_out_what_is_none():
    image, order = some_image(3), np.array([3, 1, 2, 0], np.int32)
    none = {"brightness": None, "contrast": None, "saturation": None, "hue": None}
    np.testing.assert_array_equal(jitter.color_jitter(image, order, **none), image)
    only = jitter.color_jitter(image, order, **(none | {"contrast": jnp.float32(0.3)}))
    np.testing.assert_allclose(only, jitter.adjust_contrast(image, 0.3), atol=1e-6)
    only = jitter.color_jitter(image, order, **(none | {"hue": jnp.float32(0.3)}))
    np.testing.assert_allclose(only, jitter.adjust_hue(image, 0.3), atol=1e-6)


def test_jitter_is_drawn_as_torchvisions():
    strengths = {"brightness": 0.4, "contrast": 0.8, "saturation": 1.5, "hue": 0.2}
    sample = jax.vmap(lambda key: jitter.sample_color_jitter(key, **strengths))
    orders, factors = jax.jit(sample)(KEYS)
    ranges = {"brightness": (0.6, 1.4), "contrast": (0.2, 1.8), "saturation": (0.0, 2.5)}
    for name, (low, high) in (ranges | {"hue": (-0.2, 0.2)}).items():
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(np.asarray(factors[name]), uniform.cdf).pvalue > 1e-3, name
    permutations, counts = np.unique(np.asarray(orders), axis=0, return_counts=True)
    assert len(permutations) == 24
    assert (np.sort(permutations, axis=1) == np.arange(4)).all()
    assert stats.chisquare(counts).pvalue > 1e-3
    together = np.stack([np.asarray(v) for v in factors.values()] + [np.asarray(orders[:, 0])])
    assert np.abs(np.corrcoef(together) - np.eye(5)).max() < 0.06


def test_jitter_strength_0_draws_nothing():
    _, factors = jitter.sample_color_jitter(
        KEYS[0], brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0
    )
    assert factors["brightness"] is not None
    assert factors["contrast"] is factors["saturation"] is factors["hue"] is None


def test_grayscale():
    image = some_image(4)
    expected = np.repeat((image.astype(np.float64) @ GRAY)[..., None], 3, axis=-1)
    np.testing.assert_allclose(gray.grayscale(image), expected, atol=1e-6)


def test_solarize():
    image = np.array([0.0, 0.3, 0.5, 0.6, 0.9, 1.0], np.float32).reshape(1, 2, 3)
    expected = np.array([0.0, 0.3, 0.5, 0.4, 0.1, 0.0]).reshape(1, 2, 3)
    np.testing.assert_allclose(solarize.solarize(image), expected, atol=1e-6)


def test_flip_mirrors_left_for_right():
    image = some_image(5)
    mirrored = Image.fromarray((image * 255).astype(np.uint8)).transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    )
    np.testing.assert_array_equal(flip.flip((image * 255).astype(np.uint8)), mirrored)


@pytest.mark.parametrize("degrees", [-90.0, -33.0, 0.0, 10.0, 45.0, 90.0, 180.0])
def test_rotate(degrees):
    """Zero-padded bilinear sampling in float64 everywhere, and Pillow away from the border."""
    image = some_image(6, 11, 8)
    height, width, _ = image.shape
    angle = math.radians(degrees)
    expected, inner = np.zeros(image.shape), np.zeros((height, width), bool)
    padded = np.pad(image.astype(np.float64), ((20, 20), (20, 20), (0, 0)))
    for i, j in np.ndindex(height, width):
        dy, dx = i - (height - 1) / 2, j - (width - 1) / 2
        y = math.sin(angle) * dx + math.cos(angle) * dy + (height - 1) / 2
        x = math.cos(angle) * dx - math.sin(angle) * dy + (width - 1) / 2
        inner[i, j] = 0.01 < y < height - 1.01 and 0.01 < x < width - 1.01
        top, left = math.floor(y), math.floor(x)
        for row, column in itertools.product((top, top + 1), (left, left + 1)):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            expected[i, j] += weight * padded[row + 20, column + 20]
    result = np.asarray(rotate.rotate(image, degrees))
    np.testing.assert_allclose(result, expected, atol=2e-5)
    for c in range(3):
        plane = Image.fromarray(np.ascontiguousarray(image[..., c]))
        pillow = np.asarray(plane.rotate(degrees, Image.Resampling.BILINEAR))
        np.testing.assert_allclose(result[inner, c], pillow[inner], atol=2e-5)
    assert inner.sum() > 20


@pytest.mark.parametrize(
    "height, width, radius", [(6, 7, None), (9, 9, 3), (5, 8, 4), (48, 60, None)]
)
@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_gaussian_blur(height, width, radius, sigma):
    image = some_image(7, height, width)
    taps = radius or {6: 1, 48: 2}[height]
    weights = np.exp(-0.5 * (np.arange(-taps, taps + 1) / sigma) ** 2)
    weights /= weights.sum()
    expected = image.astype(np.float64)
    for axis in (0, 1):
        expected = ndimage.convolve1d(expected, weights, axis=axis, mode="mirror")
    result = blur.gaussian_blur(image, sigma, radius=radius)
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_blur_radius_is_simclrs():
    sizes = {224: 11, 96: 4, 64: 3, 32: 1, 8: 1}  # kernels of 23, 9, 7, 3 and 3 pixels
    assert {size: blur.blur_radius(size) for size in sizes} == sizes


def test_blur_wider_than_the_image_is_refused():
    with pytest.raises(ValueError, match="radius 4 does not fit an image of 4 by 9"):
        blur.gaussian_blur(jnp.zeros((4, 9, 3)), 1.0, radius=4)


def test_add_noise_clips():
    image = jnp.full((1, 1, 3), 0.5)
    values = jnp.array([-0.7, 0.2, 0.9]).reshape(1, 1, 3)
    np.testing.assert_allclose(noise.add_noise(image, values)[0, 0], [0.0, 0.7, 1.0], atol=1e-6)


def changed_by(name, image, **options):
    """The results that differ of an operator of probability .3, tested to be .3 of 4000."""
    file = kinds.load("operator", name)
    settings = section.defaults(file.Settings)
    settings.update({"prob": 0.3} | options)

    def operator(key):
        return file.apply(key, image, settings, len(image))

    results = np.asarray(jax.jit(jax.vmap(operator))(KEYS))
    changed = results[(results != image).any(axis=(1, 2, 3))]
    assert stats.binomtest(len(changed), len(KEYS), 0.3).pvalue > 1e-3
    return changed.astype(np.float64)


@pytest.mark.parametrize("name", ["flip", "jitter", "gray", "solarize"])
def test_operators_apply_with_their_probability(name):
    image = np.random.default_rng(8).uniform(0.1, 0.9, (3, 3, 3)).astype(np.float32)
    changed_by(name, image)


@pytest.mark.parametrize("name", kinds.names("operator"))
def test_every_operator_gives_an_image(name):
    file = kinds.load("operator", name)
    settings = section.defaults(file.Settings)
    if "prob" in settings:
        settings.prob = 1.0
    result = np.asarray(file.apply(KEYS[0], some_image(3, 8, 8), settings, 8))
    assert (result.shape, result.dtype) == ((8, 8, 3), np.float32)
    assert result.min() >= -1e-6
    assert result.max() <= 1 + 1e-6


def test_random_blur():
    """The blur of one point tells sigma, to be uniform: neighbour / centre = exp(-.5 / sigma^2)."""
    image = np.zeros((5, 5, 3), np.float32)
    image[2, 2] = 1
    blurred = changed_by("blur", image, sigma=(0.5, 2.0))
    sigma = np.sqrt(-0.5 / np.log(blurred[:, 2, 1, 0] / blurred[:, 2, 2, 0]))
    assert stats.kstest(sigma, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


def test_random_rotation():
    """In an image of its own coordinates, the pixel right of the centre tells the angle."""
    y, x = np.mgrid[:5, :5].astype(np.float32) / 4
    turned = changed_by("rotate", np.stack([x, y, 0 * x], axis=-1), degrees=60.0)[:, 2, 3]
    degrees = np.degrees(np.arctan2(turned[:, 1] - 0.5, turned[:, 0] - 0.5))
    assert stats.kstest(degrees, stats.uniform(-60, 120).cdf).pvalue > 1e-3


def test_random_noise():
    image = np.full((2, 2, 3), 0.5, np.float32)
    added = changed_by("noise", image, std=0.05) - image
    assert stats.kstest(added.ravel(), stats.norm(0, 0.05).cdf).pvalue > 1e-3
