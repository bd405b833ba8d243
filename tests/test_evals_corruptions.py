"""The corruptions of images, each against another way to compute it, and the evaluation on them."""

import colorsys
import io
import math
import zlib

import numpy as np
import pytest
import tiny_run
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax.evals import corruptions as job
from iecl_jax.evals import transfer
from iecl_jax.evals.measures import corruptions, logistic
from iecl_jax.evals.parts import jobs


def smooth(width, height):
    """An image of random colours that change slowly, uint8 [height, width, 3]."""
    colours = np.random.default_rng(3).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))


IMAGE, LARGE = smooth(28, 32), smooth(70, 80)
IMAGE[:3] = 0
IMAGE[3:6] = 128


def corrupt(operator, level, image=IMAGE, seed=0):
    return corruptions.corrupt(image, operator, level, seed=seed)


def noise(operator, image, seed):
    number = corruptions.OPERATORS.index(operator)
    return np.random.default_rng((seed, number, zlib.crc32(image.tobytes())))


def as_bytes(x):
    return np.uint8(np.clip(x, 0, 1) * 255)


def test_noise_has_the_published_constants():
    found = corrupt("gaussian_noise", 3, seed=5)
    drawn = noise("gaussian_noise", IMAGE, 5).normal(size=IMAGE.shape)
    np.testing.assert_array_equal(found, as_bytes(IMAGE / 255 + 0.08 * drawn))
    found = corrupt("gaussian_noise", 3, LARGE)
    drawn = noise("gaussian_noise", LARGE, 0).normal(size=LARGE.shape)
    np.testing.assert_array_equal(found, as_bytes(LARGE / 255 + 0.18 * drawn))
    grey = np.full((64, 64, 3), 128, np.uint8)
    shot = corrupt("shot_noise", 5, grey) / 255  # 50 photons at white: a variance of x / 50
    assert shot.mean() == pytest.approx(128 / 255, abs=0.01)
    assert shot.std() == pytest.approx(math.sqrt(128 / 255 / 50), rel=0.05)
    impulse = corrupt("impulse_noise", 5, grey)
    assert (impulse != 128).mean() == pytest.approx(0.07, abs=0.01)
    assert (impulse == 0).sum() == pytest.approx((impulse == 255).sum(), rel=0.2)
    assert (
        len({*map(tuple, (impulse != 128).reshape(-1, 3).tolist())}) > 3
    )  # channels by themselves


@pytest.mark.parametrize("level, added", [(1, 0.05), (5, 0.3)])
def test_brightness_is_that_of_hsv(level, added):
    found = corrupt("brightness", level)
    for y, x in np.ndindex(*IMAGE.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(IMAGE[y, x] / 255))
        wanted = 255 * np.array(colorsys.hsv_to_rgb(h, s, min(v + added, 1)))
        assert (np.abs(found[y, x] - wanted) <= 1.001).all()


def test_contrast_keeps_the_mean_of_each_channel():
    found = corrupt("contrast", 4)
    for channel in range(3):
        values = [int(value) for value in IMAGE[..., channel].ravel()]
        mean = sum(values) / len(values)
        for value, got in zip(values, found[..., channel].ravel(), strict=True):
            assert got == int((value - mean) * 0.3 + mean + 1e-9)


@pytest.mark.parametrize("image, sigma", [(IMAGE, 0.8), (LARGE, 4 * 80 / 224)])
def test_blur_is_a_sum_over_neighbours(image, sigma):
    found, reach = corrupt("gaussian_blur", 4, image), int(4 * sigma + 0.5)
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    height, width, _ = image.shape
    for y, x in [(0, 0), (3, 4), (height - 1, 2)]:
        total = np.zeros(3)
        for dy, wy in zip(range(-reach, reach + 1), weights, strict=True):
            for dx, wx in zip(range(-reach, reach + 1), weights, strict=True):
                row, column = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
                total += wy * wx * image[row, column]
        np.testing.assert_allclose(found[y, x], total / sum(weights) ** 2, atol=1.001)


def test_pixelate_is_the_mean_of_boxes_and_jpeg_that_of_pillow():
    image = np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)
    found = corrupt("pixelate", 5, image)  # a quarter of the side
    for y, x in [(0, 0), (5, 11), (79, 40)]:
        box = image[4 * (y // 4) : 4 * (y // 4) + 4, 4 * (x // 4) : 4 * (x // 4) + 4]
        np.testing.assert_allclose(found[y, x], box.mean((0, 1)), atol=1)
    tiny = corrupt("pixelate", 5, IMAGE[:1, :1])
    np.testing.assert_array_equal(tiny, IMAGE[:1, :1])
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "JPEG", quality=65)
    np.testing.assert_array_equal(corrupt("jpeg_compression", 2), np.asarray(Image.open(file)))


@pytest.mark.parametrize("operator", corruptions.OPERATORS)
@pytest.mark.parametrize("image", [IMAGE, LARGE], ids=["small", "large"])
def test_each_level_changes_more_and_depends_on_nothing_but_the_seed(operator, image):
    found = [corrupt(operator, level, image) for level in range(1, 6)]
    distances = [np.abs(each.astype(float) - image).mean() for each in found]
    assert all(each.dtype == np.uint8 and each.shape == image.shape for each in found)
    assert 0 < distances[0] < distances[2] < distances[4]
    np.testing.assert_array_equal(corrupt(operator, 3, image), found[2])
    other = corrupt(operator, 3, image, seed=1)
    assert np.array_equal(other, found[2]) == ("noise" not in operator)


def test_the_evaluation_tests_a_classifier_of_clean_features(tmp_path, capsys):
    config = config_lib.new("corruptions")
    config.pretrain = tiny_run.get_config()
    config.corruptions.update({"num_penalties": 2, "num_images": 40})
    config.corruptions.operators = ("contrast", "gaussian_noise")
    found = jobs.run(config, str(tmp_path))["metrics"]
    assert {*found["corruptions"]} == {"contrast", "gaussian_noise"}
    subject = jobs.load(config, str(tmp_path))
    choice = logistic.choose(
        *subject.features("train"),
        penalties=transfer.penalties(config.corruptions),
        holdout=0.2,
        seed=42,
    )
    classifier = logistic.train(*subject.features("train"), penalty=choice.penalty)
    split = subject.split("test")
    drawn = np.sort(np.random.default_rng(42).permutation(64)[:40])
    encode = subject.encoder.bind(subject.params, subject.method_state)
    for level, operator in ((0, ""), (4, "contrast"), (2, "gaussian_noise")):
        images = np.stack([split.load(index) for index in drawn])
        if level:
            images = np.stack([corrupt(operator, level, image, seed=42) for image in images])
        right = classifier.predict(np.asarray(encode(images))) == split.labels[drawn]
        row = found["corruptions"].get(operator, {"0": found["corruptions_clean_top1"]})
        assert row[str(level)] == right.mean()
    means = [np.mean([row[str(n)] for n in range(1, 6)]) for row in found["corruptions"].values()]
    np.testing.assert_allclose([row["mean"] for row in found["corruptions"].values()], means)
    np.testing.assert_allclose(found["corruptions_top1"], np.mean(means))
    assert "| contrast " in capsys.readouterr().out
    config.corruptions.operators = ("fog",)
    with pytest.raises(ValueError, match=r"operators=\('fog',\) must be different words of gauss"):
        config_lib.check(config, 1)
    assert job.RESULTS.keys() < found.keys()
