"""The views: which operators, in which order, under which keys, for both forms of input."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.config import kinds, section
from iecl_jax.configs import common
from iecl_jax.data import augment
from iecl_jax.data.augment import resizing
from iecl_jax.data.augment.operators import blur, flip, gray, solarize

SIZE = 8
UNCHANGED = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # a normalisation that does nothing
# By default, a test's program rounds by what else is in it (tests/conftest.py).
FUSIONS = "xla_cpu_use_fusion_emitters"
AS_IN_A_RUN = {FUSIONS: True} if FUSIONS in os.environ["XLA_FLAGS"] else None
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROBABILITIES = ("flip", "rotate", "jitter", "gray", "blur", "solarize", "noise")


def quiet_recipe(settings=()):
    """No operator in either view but for the settings, {"NAME.KEY": value}, in both."""
    recipe = common.simclr_small_augment()
    quiet = {f"{name}.prob": 0.0 for name in PROBABILITIES}
    quiet |= {"crop.scale": (1.0, 1.0), "crop.ratio": (1.0, 1.0)}
    for view in (recipe.anchor, recipe.query):
        for name, value in (quiet | dict(settings)).items():
            section.put(view, name, value)
    return recipe


def busy_recipe():
    """Every operator in both views."""
    settings = {f"{name}.prob": 0.5 for name in PROBABILITIES}
    return quiet_recipe(settings | {"crop.scale": (0.2, 1.0), "crop.ratio": (0.75, 4 / 3)})


def with_views(recipe, sizes):
    """The recipe with further views like the query, of these sizes."""
    recipe = recipe.copy_and_resolve_references()
    for number, size in enumerate(sizes):
        name = f"further{number}"
        recipe.views = (*recipe.views, name)
        recipe[name] = recipe.query.copy_and_resolve_references()
        recipe[name].size = size
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
    assert [(view.shape, view.dtype) for view in views] == [((6, SIZE, SIZE, 3), jnp.float32)] * 2
    assert all(view.min() >= 0 and view.max() <= 1 for view in views)


def test_views_depend_on_their_key_and_image_alone(busy):
    images = some_images(6, 11, 9, 3)
    together = busy(keys_of(range(6)), images)
    mixed = busy(keys_of([4, 9, 2, 7, 11, 0]), images[[4, 1, 2, 1, 1, 0]])
    for slot, image in ((0, 4), (2, 2), (5, 0)):
        for view, other in zip(mixed, together, strict=True):
            np.testing.assert_allclose(view[slot], other[image], atol=1e-5)


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


@pytest.mark.parametrize(
    "form",
    ["small", *(pytest.param(form, marks=pytest.mark.slow) for form in ("large", "cropped"))],
)
def test_views_added_do_not_change_the_first_two_bit_for_bit(form):
    images = {"large": some_images(6, 11, 9, 3), "small": some_images(6, SIZE, SIZE, 3)}.get(form)
    sizes = (SIZE, SIZE, 4)
    views = []
    for recipe in (busy_recipe(), with_views(busy_recipe(), sizes)):
        crops = [some_images(6, size, size, 3) for size in (SIZE, SIZE, *sizes)]
        given = crops[: len(recipe.views)] if images is None else images
        augmented = jax.jit(
            augment.make_augment(recipe, SIZE, *UNCHANGED), compiler_options=AS_IN_A_RUN
        )
        views.append(augmented(keys_of(range(6)), given))
    np.testing.assert_array_equal(views[1][:2], views[0])
    assert [view.shape for view in views[1][2:]] == [(6, size, size, 3) for size in sizes]
    assert np.abs(views[1][2] - views[1][1]).max() > 0.1  # of its own key


def test_an_operator_s_key_is_that_of_its_place_in_the_view_and_in_the_list():
    recipe = quiet_recipe({f"{name}.prob": 0.5 for name in ("flip", "solarize", "noise")})
    images, keys = some_images(16, SIZE, SIZE, 3), keys_of(range(16))
    views = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys, images)
    order = ("crop", "flip", "rotate", "jitter", "gray", "blur", "solarize", "noise")
    assert recipe.anchor.operators == order

    def expected(place, key, image):
        keys = jax.random.split(jax.random.fold_in(key, place), 8)
        image = image.astype(jnp.float32) / 255
        for name in ("flip", "solarize", "noise"):
            file = kinds.load("operator", name)
            image = file.apply(keys[order.index(name)], image, recipe.anchor[name], SIZE)
        return image

    for place, view in enumerate(views):
        alone = jax.vmap(partial(expected, place))(keys, images)
        np.testing.assert_allclose(view, alone, atol=1e-6)


def test_same_result_whether_the_views_share_a_program_or_not():
    together, apart = (quiet_recipe({"flip.prob": 0.5, "solarize.prob": 0.5}) for _ in range(2))
    apart.query.noise.std = 0.2  # of no effect without noise
    images, keys = some_images(16, SIZE, SIZE, 3), keys_of(range(16))
    expected, views = (
        jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys, images)
        for recipe in (together, apart)
    )
    np.testing.assert_allclose(views, expected, atol=1e-6)
    assert np.abs(views[0] - views[1]).max() > 0.1


def test_each_view_has_its_own_operators():
    recipe = quiet_recipe()
    recipe.anchor.gray.prob = 1.0
    recipe.query.operators = ("solarize",)
    recipe.query.solarize.prob = 1.0
    images = some_images(3, SIZE, SIZE, 3)
    augmented = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))
    anchors, queries = augmented(keys_of(range(3)), images)
    floats = images.astype(np.float32) / 255
    np.testing.assert_allclose(anchors, jax.vmap(gray.grayscale)(floats), atol=1e-6)
    np.testing.assert_allclose(queries, solarize.solarize(floats), atol=1e-6)


def test_a_view_without_a_crop_is_resized():
    recipe = quiet_recipe()
    recipe.anchor.operators = ()
    images = some_images(2, 13, 10, 3)
    anchors, _ = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys_of(range(2)), images)
    whole = jax.vmap(partial(resizing.resize, size=SIZE))(images.astype(np.float32) / 255)
    np.testing.assert_allclose(anchors, whole, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_operators_come_in_their_order(reverse):
    names = ("flip", "gray", "blur", "solarize")
    settings = {f"{name}.prob": 1.0 for name in names} | {"blur.sigma": (1.0, 1.0)}
    recipe = quiet_recipe(settings)
    steps = [flip.flip, gray.grayscale, partial(blur.gaussian_blur, sigma=1.0), solarize.solarize]
    if reverse:
        recipe.anchor.operators = recipe.query.operators = ("crop", *names[::-1])
        steps = steps[::-1]
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    images = some_images(2, SIZE, SIZE, 3)
    views = jax.jit(augment.make_augment(recipe, SIZE, mean, std))(keys_of(range(2)), images)
    for i in range(2):
        image = images[i].astype(np.float32) / 255
        for step in steps:
            image = step(image)
        expected = (np.asarray(image) - np.array(mean)) / std
        np.testing.assert_allclose(views[0][i], expected, atol=1e-5)
        np.testing.assert_allclose(views[1][i], expected, atol=1e-5)


def test_cropped_images_are_not_cropped_again():
    crops = list(some_images(2, 3, SIZE, SIZE, 3))
    for recipe in (quiet_recipe(), quiet_recipe({"crop.scale": (0.1, 0.2)})):
        views = jax.jit(augment.make_augment(recipe, SIZE, *UNCHANGED))(keys_of(range(3)), crops)
        np.testing.assert_allclose(views, np.stack(crops) / 255, atol=1e-6)


@pytest.mark.parametrize("on", [(), ("flip", "jitter"), PROBABILITIES])
def test_operators_of_probability_0_are_not_compiled(on, monkeypatch):
    applied = set()
    for name in ("crop", *PROBABILITIES):
        module = kinds.load("operator", name)

        def recorded(*arguments, name=name, apply=module.apply):
            applied.add(name)
            return apply(*arguments)

        monkeypatch.setattr(module, "apply", recorded)
    make_views = augment.make_augment(
        quiet_recipe({f"{name}.prob": 0.5 for name in on}), SIZE, *UNCHANGED
    )
    jax.eval_shape(make_views, keys_of(range(2)), some_images(2, SIZE, SIZE, 3))
    assert applied - {"crop"} == set(on)


def test_eval_transform():
    transform = jax.jit(augment.make_eval_transform(SIZE, *IMAGENET))
    images = some_images(2, 13, 10, 3)
    floats = images.astype(np.float32) / 255
    resized = np.asarray(jax.jit(jax.vmap(partial(resizing.resize, size=SIZE)))(floats))
    expected = (resized - np.array(IMAGENET[0])) / IMAGENET[1]
    np.testing.assert_allclose(transform(images), expected, atol=1e-5)
    np.testing.assert_allclose(
        augment.denormalize(transform(images), *IMAGENET), resized, atol=1e-6
    )
    same = some_images(2, SIZE, SIZE, 3)
    restored = augment.denormalize(transform(same), *IMAGENET) * 255
    np.testing.assert_array_equal(np.round(restored), same)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 1), np.uint8),
        np.zeros((2, 2, 8, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
)
def test_wrong_images_are_refused(images):
    augmented = partial(augment.make_augment(quiet_recipe(), SIZE, *UNCHANGED), keys_of(range(2)))
    for function in (augmented, augment.make_eval_transform(SIZE, *UNCHANGED)):
        with pytest.raises(ValueError, match=r"images must be uint8 \[B, H, W, 3\], not "):
            function(images)


@pytest.mark.parametrize("sides", [(8,), (8, 9), (8, 8, 8)])
def test_wrong_crops_are_refused(sides):
    crops = [np.zeros((2, side, 8, 3), np.uint8) for side in sides]
    augmented = augment.make_augment(quiet_recipe(), SIZE, *UNCHANGED)
    with pytest.raises(ValueError, match=r"\[B, 8, 8, 3\] and \[B, 8, 8, 3\], not uint8 \[2, 8"):
        augmented(keys_of(range(2)), crops)
