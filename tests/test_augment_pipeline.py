"""The two views: which operators, in which order, under which keys, for both forms of input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from configs import common
from iecl_jax.data import augment

SIZE = 8
UNCHANGED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # a normalisation that does nothing
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROBABILITIES = ("flip", "rotate", "jitter", "gray", "blur", "solarize", "noise")


def quiet_recipe(**settings):
    """No operator in either view but for the settings given; values stay in [0, 1]."""
    recipe = common.simclr_small_augment()
    for ops in (recipe.anchor, recipe.query):
        ops.update({f"{name}_prob": 0.0 for name in PROBABILITIES})
        ops.update({"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)})
        ops.update(settings)
    return recipe


def busy_recipe():
    """Every operator in both views."""
    recipe = quiet_recipe(**{f"{name}_prob": 0.5 for name in PROBABILITIES})
    for ops in (recipe.anchor, recipe.query):
        ops.update({"crop_scale": (0.2, 1.0), "crop_ratio": (0.75, 4 / 3)})
    return recipe


def some_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def keys_of(places, step=3):
    return augment.image_keys(jax.random.key(42), step, jnp.asarray(places, jnp.int32))


@pytest.fixture(scope="module")
def busy():
    return jax.jit(augment.make_augment(busy_recipe(), SIZE, *UNCHANGED))


def test_views_are_finite_and_in_range(busy):
    views = busy(keys_of(range(6)), some_images(6, 11, 9, 3))
    assert views.shape == (2, 6, SIZE, SIZE, 3)
    assert views.dtype == jnp.float32
    assert (views >= 0).all()
    assert (views <= 1).all()


def test_views_depend_on_their_key_and_image_alone(busy):
    images = some_images(6, 11, 9, 3)
    together = busy(keys_of(range(6)), images)
    mixed = busy(keys_of([4, 9, 2, 7, 11, 0]), images[[4, 1, 2, 1, 1, 0]])
    for slot, image in ((0, 4), (2, 2), (5, 0)):
        np.testing.assert_allclose(mixed[:, slot], together[:, image], atol=1e-5)


def test_places_steps_and_views_differ(busy):
    images = np.repeat(some_images(1, 11, 9, 3), 6, axis=0)
    views = np.concatenate(
        [*busy(keys_of(range(6)), images), *busy(keys_of(range(6), step=4), images)]
    )
    difference = np.abs(views[:, None] - views[None]).mean(axis=(2, 3, 4))
    assert difference[~np.eye(24, dtype=bool)].min() > 1e-3


def test_image_keys_fold_in_step_and_place():
    keys = keys_of([5, 70000], step=9)
    expected = jax.random.fold_in(jax.random.fold_in(jax.random.key(42), 9), 70000)
    assert keys[1] == expected
    assert keys[0] != keys[1]


def test_same_result_whether_the_views_share_a_program_or_not():
    together = quiet_recipe(flip_prob=0.5, solarize_prob=0.5)
    apart = quiet_recipe(flip_prob=0.5, solarize_prob=0.5)
    apart.query.noise_std = 0.2  # of no effect without noise
    images, keys = some_images(16, SIZE, SIZE, 3), keys_of(range(16))
    expected, views = (
        jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys, images)
        for recipe in (together, apart)
    )
    np.testing.assert_allclose(views, expected, atol=1e-6)
    assert np.abs(views[0] - views[1]).max() > 0.1


def test_each_view_has_its_own_operators():
    recipe = quiet_recipe()
    recipe.anchor.gray_prob = 1.0
    recipe.query.solarize_prob = 1.0
    images = some_images(3, SIZE, SIZE, 3)
    anchors, queries = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(
        keys_of(range(3)), images
    )
    floats = images.astype(np.float32) / 255
    np.testing.assert_allclose(anchors, jax.vmap(augment.grayscale)(floats), atol=1e-6)
    np.testing.assert_allclose(queries, augment.solarize(floats), atol=1e-6)


def test_operators_come_in_their_order():
    recipe = quiet_recipe(
        flip_prob=1.0, gray_prob=1.0, blur_prob=1.0, blur_sigma=(1.0, 1.0), solarize_prob=1.0
    )
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = some_images(2, SIZE, SIZE, 3)
    views = jax.jit(augment.make_augment(recipe, SIZE, mean, std))(keys_of(range(2)), images)
    for i in range(2):
        image = augment.flip(images[i].astype(np.float32) / 255)
        image = augment.gaussian_blur(augment.grayscale(image), 1.0)
        expected = (np.asarray(augment.solarize(image)) - np.array(mean)) / std
        np.testing.assert_allclose(views[0, i], expected, atol=1e-5)
        np.testing.assert_allclose(views[1, i], expected, atol=1e-5)


def test_cropped_images_are_not_cropped_again():
    images = some_images(3, 2, SIZE, SIZE, 3)
    for recipe in (quiet_recipe(), quiet_recipe(crop_scale=(0.1, 0.2))):
        views = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys_of(range(3)), images)
        np.testing.assert_allclose(views, np.swapaxes(images, 0, 1) / 255, atol=1e-6)


def random_draws(recipe, height=SIZE):
    """How many times a program draws random bits, and its primitives."""
    images = some_images(2, height, height, 3)
    jaxpr = jax.make_jaxpr(augment.make_augment(recipe, SIZE, *UNCHANGED))(
        keys_of(range(2)), images
    )
    primitives = []

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            primitives.append(equation.primitive.name)
            for inner in jaxprs_in_params(equation.params):
                walk(inner)

    walk(jaxpr.jaxpr)
    return primitives.count("random_bits"), set(primitives)


def test_operators_of_probability_0_are_not_compiled():
    draws, primitives = random_draws(quiet_recipe())
    assert draws == 0
    assert primitives.isdisjoint({"dot_general", "scan", "sort", "rev", "erf_inv", "select_n"})
    assert random_draws(quiet_recipe(), height=SIZE + 1)[0] == 1  # a crop is needed
    marks = {"flip": "rev", "rotate": "sin", "jitter": "sort", "blur": "exp", "noise": "erf_inv"}
    for name in PROBABILITIES:
        draws, primitives = random_draws(quiet_recipe(**{f"{name}_prob": 0.5}))
        assert draws >= 1, name
        if name in marks:
            assert marks.pop(name) in primitives
        assert primitives.isdisjoint(marks.values()), name


def test_eval_transform():
    transform = jax.jit(augment.make_eval_transform(SIZE, *IMAGENET))
    images = some_images(2, 13, 10, 3)
    floats = images.astype(np.float32) / 255
    resized = np.asarray(jax.jit(jax.vmap(partial(augment.resize, size=SIZE)))(floats))
    expected = (resized - np.array(IMAGENET[0])) / IMAGENET[1]
    np.testing.assert_allclose(transform(images), expected, atol=1e-5)
    np.testing.assert_allclose(
        augment.denormalize(transform(images), *IMAGENET), resized, atol=1e-6
    )
    same = some_images(2, SIZE, SIZE, 3)
    restored = augment.denormalize(transform(same), *IMAGENET) * 255
    np.testing.assert_array_equal(np.round(restored), same)
    assert "dot_general" not in str(jax.make_jaxpr(transform)(same))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((2, 2, 9, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, .* not "):
        augment.make_augment(quiet_recipe(), SIZE, *UNCHANGED)(keys_of(range(2)), images)
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, 3\], not "):
        augment.make_eval_transform(SIZE, *UNCHANGED)(images)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("flip_prob", 1.5, "flip_prob is 1.5 but must be a probability in"),
        ("noise_prob", -0.1, "noise_prob is -0.1 but must be a probability in"),
        ("crop_scale", (0.0, 1.0), "crop_scale is .* 0 < low <= high <= 1"),
        ("crop_scale", (0.5, 1.5), "crop_scale is .* 0 < low <= high <= 1"),
        ("crop_ratio", (2.0, 1.0), "crop_ratio is .* 0 < low <= high"),
        ("crop_interpolation", "nearest", "crop_interpolation is 'nearest' .* bilinear, bicubic"),
        ("blur_sigma", (0.0, 2.0), "blur_sigma is .* in pixels"),
        ("brightness", -1.0, "brightness is -1.0 but must be at least 0"),
        ("hue", 0.6, r"hue is 0.6 but must be in \[0, 0.5\]"),
    ],
)
def test_settings_out_of_range_are_refused(name, value, message):
    for view in ("anchor", "query"):
        recipe = quiet_recipe()
        recipe[view][name] = value
        with pytest.raises(ValueError, match=f"augment.{view}.{message}"):
            augment.check(recipe)
        with pytest.raises(ValueError, match=name):
            augment.make_augment(recipe, SIZE, *UNCHANGED)
