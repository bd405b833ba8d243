"""The host's crops against Pillow on the full image, and how the boxes are drawn."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from iecl_jax.configs import imagenet_r50
from iecl_jax.data import crops, images

pytestmark = pytest.mark.quick


def smooth_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photograph's kind of content: random values on a coarse grid, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 40, width // 40, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray, form: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def reference(source, box, size, resample) -> np.ndarray:
    """torchvision's resized_crop of a PIL image: crop at full size, then resize."""
    left, top, width, height = box
    image = images.to_rgb(images.open_image(source))
    return np.asarray(
        image.crop((left, top, left + width, top + height)).resize((size, size), resample)
    )


@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_small_boxes_are_exactly_the_full_decode(form, name):
    source = encode(smooth_image(150, 201), form)
    boxes = [(3, 5, 64, 90), (11, 0, 190, 63)]  # below twice the size somewhere: never reduced
    sizes = [32, 40]
    views = images.crop_views(source, lambda *_: boxes, sizes, [name, name])
    for view, box, size in zip(views, boxes, sizes, strict=True):
        expected = reference(source, box, size, images.INTERPOLATIONS[name])
        np.testing.assert_array_equal(view, expected)


@pytest.mark.parametrize("reduction, width", [(2, 150), (4, 300), (8, 513)])
def test_reduced_jpeg_is_close_to_the_full_decode(reduction, width):
    source = encode(smooth_image(601, 803), "JPEG", quality=92)
    boxes = [(101, 37, width, width + 31), (201, 11, width + 5, width)]
    assert images.reduction(boxes, [64, 64]) == reduction
    image, reduced = images.decode_reduced(images.open_image(source), reduction)
    assert reduced == reduction
    assert image.size == (math.ceil(803 / reduction), math.ceil(601 / reduction))
    views = images.crop_views(source, lambda *_: boxes, [64, 64], ["bilinear", "bilinear"])
    for view, box in zip(views, boxes):
        expected = reference(source, box, 64, Image.Resampling.BILINEAR).astype(int)
        difference = np.abs(view.astype(int) - expected)
        assert 0 < difference.mean() < 1.5
        assert difference.max() <= 20
        shifted = (box[0] + 2 * reduction, *box[1:])  # The tolerance would notice a displaced box.
        far = reference(source, shifted, 64, Image.Resampling.BILINEAR).astype(int)
        assert np.abs(view - far).mean() > 3 * difference.mean()


def test_reduction_follows_the_smaller_box_for_its_view():
    boxes = [(0, 0, 700, 590), (10, 10, 100, 300)]
    assert images.reduction(boxes, [64, 64]) == 1
    assert images.reduction(boxes, [64, 24]) == 4


def test_further_views_change_nothing_of_the_first_two_and_have_their_pixels(monkeypatch):
    """A small box needs the image whole where the first two are cut from a quarter of it."""
    source = encode(smooth_image(600, 800), "JPEG", quality=92)
    boxes = [(0, 0, 600, 512), (64, 8, 512, 592), (0, 0, 600, 512), (301, 203, 40, 50)]
    sizes, names = [128, 128, 64, 40], ["bilinear"] * 4
    decoded = []
    decode = images.decode_reduced
    monkeypatch.setattr(
        images,
        "decode_reduced",
        lambda image, most, how: decoded.append(most) or decode(image, most, how),
    )
    pair = images.crop_views(source, lambda *_: boxes[:2], sizes[:2], names[:2])
    three = images.crop_views(source, lambda *_: boxes[:3], sizes[:3], names[:3])
    four = images.crop_views(source, lambda *_: boxes, sizes, names)
    assert decoded == [4, 4, 4, 1]  # once each, but for the last
    for views in (three, four):
        np.testing.assert_array_equal(views[:2], pair)
    exact = reference(source, boxes[3], 40, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(four[3], exact)


def draw(width, height, scale, ratio, count=2000) -> np.ndarray:
    generators = (crops.view_generator(7, step, step * 3, 1) for step in range(count))
    return np.array([crops.sample_box(g, width, height, scale, ratio) for g in generators])


def test_boxes_have_the_distribution_of_random_resized_crop():
    side, scale, ratio = 20000, (0.1, 0.5), (3 / 4, 4 / 3)  # every first try fits
    left, top, width, height = draw(side, side, scale, ratio).T
    share = width * height / side**2
    assert stats.kstest(share, stats.uniform(0.1, 0.4).cdf).pvalue > 1e-3
    low, high = np.log(ratio)
    aspect = np.log(width / height)
    assert stats.kstest(aspect, stats.uniform(low, high - low).cdf).pvalue > 1e-3
    assert stats.kstest(left / (side - width), "uniform").pvalue > 1e-3
    assert stats.kstest(top / (side - height), "uniform").pvalue > 1e-3
    pairs = np.corrcoef([share, aspect, left / (side - width), top / (side - height)])
    assert np.abs(pairs - np.eye(4)).max() < 0.1


def test_boxes_stay_inside_and_fall_back_to_the_centre():
    left, top, width, height = draw(50, 31, (0.08, 1.0), (3 / 4, 4 / 3), 500).T
    assert min(left.min(), top.min()) >= 0
    assert (left + width).max() <= 50
    assert (top + height).max() <= 31
    assert draw(1000, 30, (1.0, 1.0), (3 / 4, 4 / 3), 1).tolist() == [[480, 0, 40, 30]]
    assert draw(30, 1000, (1.0, 1.0), (3 / 4, 4 / 3), 1).tolist() == [[0, 480, 30, 40]]
    assert draw(30, 30, (1.0, 1.0), (1.0, 1.0), 1).tolist() == [[0, 0, 30, 30]]


def test_every_view_has_its_own_random_numbers():
    keys = [(1, 2, 3, 0), (1, 2, 3, 1), (1, 2, 4, 0), (1, 3, 3, 0), (2, 2, 3, 0)]
    first = {crops.view_generator(*key).random() for key in keys}
    assert len(first) == len(keys)
    assert crops.view_generator(1, 2, 3, 0).random() in first


def test_random_numbers_do_not_depend_on_those_drawn_before():
    for count in range(4):
        crops.view_generator(7, 6, 5, 1).integers(1000, size=count)  # half a word may be left over
        fresh = np.random.Generator(np.random.Philox(key=[1, 2], counter=[0, 0, 0, 3]))
        again = crops.view_generator(1, 2, 3, 0)
        np.testing.assert_array_equal(again.integers(1000, size=9), fresh.integers(1000, size=9))
        assert again.random() == fresh.random()


def test_views_use_their_own_settings():
    config = imagenet_r50.get_config()
    config.data.image_size = 16
    config.augment.views = ("anchor", "query", "small")
    config.augment.small = config.augment.anchor.copy_and_resolve_references()
    config.augment.anchor.operators = ("flip",)
    config.augment.query.crop.interpolation = "bicubic"
    config.augment.small.size = 8
    pixels = smooth_image(80, 120)
    anchor, query, small = crops.random_views(config)(pixels, 5, 9)
    whole = (0, 0, 120, 80)  # without a crop
    np.testing.assert_array_equal(anchor, reference(pixels, whole, 16, Image.Resampling.BILINEAR))
    for place, view, resample in ((1, query, "bicubic"), (2, small, "bilinear")):
        crop = config.augment[config.augment.views[place]].crop
        generator = crops.view_generator(config.seed, 5, 9, place)
        box = crops.sample_box(generator, 120, 80, crop.scale, crop.ratio)
        expected = reference(pixels, box, len(view), images.INTERPOLATIONS[resample])
        np.testing.assert_array_equal(view, expected)
    assert small.shape == (8, 8, 3)


@pytest.mark.parametrize(
    "height, width, size",
    [(300, 451, 56), (451, 300, 56), (40, 33, 56), (206, 309, 224), (309, 206, 224)],
)
def test_center_crop_is_resize_256_then_crop_224(height, width, size):
    """309 / 206 is 1.5: 256 times it is 384 wide, but 256 / 206 times 309 is less by rounding."""
    source = encode(smooth_image(height, width), "PNG")
    shorter = size * 256 // 224
    if width < height:
        resized = (shorter, int(shorter * height / width))
    else:
        resized = (int(shorter * width / height), shorter)
    image = Image.open(io.BytesIO(source)).resize(resized, Image.Resampling.BILINEAR)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    expected = np.asarray(image.crop((left, top, left + size, top + size)))
    np.testing.assert_array_equal(images.center_crop(source, size), expected)


def test_center_crop_of_a_long_strip_takes_no_memory(monkeypatch):
    """It is cut before it is resized, and equals the crop of the whole but for rounding."""
    pixels = smooth_image(40, 800)[:20]
    whole = Image.fromarray(pixels).resize((64 * 40, 64), Image.Resampling.BILINEAR)
    left = round((64 * 40 - 56) / 2)
    expected = np.asarray(whole.crop((left, 4, left + 56, 60))).astype(int)
    for turn in (False, True):
        source = encode(np.swapaxes(pixels, 0, 1) if turn else pixels, "PNG")
        found = images.center_crop(source, 56).astype(int)
        difference = np.abs((np.swapaxes(found, 0, 1) if turn else found) - expected)
        assert difference.max() <= 1
    monkeypatch.setattr(Image.Image, "crop", None)  # 256 x 768,000 pixels, were it resized whole
    assert images.center_crop(np.zeros((6000, 2, 3), np.uint8), 224).shape == (224, 224, 3)


def test_colour_modes_become_rgb():
    rgb = Image.fromarray(smooth_image(80, 80))
    clear = rgb.convert("RGBA")
    clear.putalpha(0)
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    deep = Image.fromarray(np.full((4, 4), 0x8042, np.uint16))
    for image in (rgb, rgb.convert("L"), rgb.convert("CMYK"), rgb.convert("P"), clear, half, deep):
        assert images.to_rgb(image).mode == "RGB"
    assert np.asarray(images.to_rgb(clear)).min() == 255
    assert images.to_rgb(half).getpixel((0, 0)) == (255, 127, 127)
    assert images.to_rgb(deep).getpixel((0, 0)) == (0x80,) * 3
    gray = np.asarray(images.to_rgb(rgb.convert("L")))
    assert (gray == gray[..., :1]).all()
