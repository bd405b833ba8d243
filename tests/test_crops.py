"""Views after the second: how they are encoded, and what is said where they cannot be used."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax import config as config_lib
from iecl_jax.configs import resnet18
from iecl_jax.methods.parts import crops, online
from iecl_jax.models import build
from iecl_jax.train import pretraining

IMAGES, SIDES = 6, (8, 8, 4, 4, 4)


def tiny_config(word="byol+crops", **overrides):
    config = tiny_network.shrink(resnet18.get_config(f"cifar10,{word},smoke"))
    config.projector.update({"hidden_dim": 8, "output_dim": 6, "output_bn": True})
    config.method.predictor.hidden_dim = 8
    config.update_from_flattened_dict({"encoder.spectral_norm": True} | overrides)
    return config


class Setup:
    """The network of a config, its first variables and views of each size."""

    def __init__(self, **overrides):
        config = tiny_config(**overrides)
        made = functools.partial(online.make, config, None, predictor=True)
        self.large, self.all = made(), made(crops=True)
        rng = np.random.default_rng(0)
        self.views = [
            jnp.asarray(rng.normal(size=(IMAGES, side, side, 3)) + i, jnp.float32)
            for i, side in enumerate(SIDES)
        ]
        self.params, self.state = jax.jit(self.all.init)(jax.random.key(0), self.views)

    def forward(self, network, views):
        return _forward(network, self.params, self.state, views)


@functools.partial(jax.jit, static_argnums=0)
def _forward(network, params, state, views):
    return network.forward(params, state, views)


@pytest.fixture(scope="module")
def by_view():
    return Setup()


@pytest.fixture(scope="module")
def by_size():
    return Setup(**{"method.batch_stats": "size"})


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_each_view_is_encoded_as_if_it_were_alone(by_view):
    """A view alone is the anchor of a call: own statistics, and the kernels of the same step."""
    outputs, _ = by_view.forward(by_view.all, by_view.views)
    assert outputs["crop_prediction"].shape == (3, IMAGES, 6)
    alone = [by_view.forward(by_view.large, [view]) for view in by_view.views]
    for part in ("projection", "prediction"):
        seen = online.of_all_views(outputs, part)
        assert len(seen) == len(SIDES)
        for values, (expected, _) in zip(seen, alone, strict=True):
            close(values, expected[f"anchor_{part}"])


def test_small_views_move_no_statistics_and_no_spectral_vector(by_view):
    """The state is that of the first two views, and they are encoded as without the others."""
    outputs, state = by_view.forward(by_view.all, by_view.views)
    expected, expected_state = by_view.forward(by_view.large, by_view.views[:2])
    assert set(outputs) - set(expected) == {"crop_projection", "crop_prediction"}
    for name, values in expected.items():
        close(outputs[name], values)
    jax.tree.map(close, state, expected_state)
    ignored, _ = by_view.forward(by_view.large, by_view.views)
    assert set(ignored) == set(expected)


def test_views_of_one_size_share_statistics_and_all_share_those_of_the_heads(by_size):
    """The program of SwAV: one call of the encoder for a size, and one of the heads."""
    setup = by_size
    outputs, state = setup.forward(setup.all, setup.views)
    config = tiny_config()
    network = online.Network(
        build.encoder(config), build.projector(config), build.predictor(config)
    )
    variables = {"params": setup.params["online"], "batch_stats": setup.state["online"]}
    call = functools.partial(network.apply, variables, train=True, mutable=["batch_stats"])

    @jax.jit
    def expected(views):
        sizes = jnp.concatenate(views[:2]), jnp.concatenate(views[2:])
        encoded = [call(images, method="encode") for images in sizes]
        pooled = jnp.concatenate([each["pooled"] for each, _ in encoded])
        return encoded, pooled, call(pooled, method="heads")

    encoded, pooled, (heads, moved) = expected(setup.views)
    for part in ("projection", "prediction"):
        rows = jnp.concatenate(online.of_all_views(outputs, part))
        close(rows, heads[part])
    close(outputs["features"], pooled[:IMAGES])
    jax.tree.map(close, state["online"]["encoder"], encoded[0][1]["batch_stats"]["encoder"])
    jax.tree.map(close, state["online"]["projector"], moved["batch_stats"]["projector"])
    own, _ = setup.forward(setup.large, [setup.views[0]])
    assert abs(own["anchor_projection"] - outputs["anchor_projection"]).max() > 0.1


def test_two_views_may_share_statistics_too(by_size):
    outputs, _ = by_size.forward(by_size.all, by_size.views[:2])
    assert "crop_projection" not in outputs
    both = jnp.concatenate(online.of_all_views(outputs, "projection"))
    close(both.mean(0), np.zeros(6))  # the last BN of the projector
    assert abs(outputs["anchor_projection"].mean(0)).max() > 0.1


def test_an_encoder_that_cannot_take_a_size_is_a_sentence_before_anything_compiles():
    config = config_lib.choose(tiny_config(), {"encoder.name": "tests/tiny_vit.py"})
    config.encoder.patch = 4
    with pytest.raises(ValueError, match=r"made for data\.image_size=8, cannot take views of 4 px"):
        pretraining.prepare(config)
    config.method.crops = False
    crops.check(config)


def test_views_that_nothing_uses_are_a_warning_that_names_the_way_out(caplog):
    config = tiny_config()
    crops.check(config)
    assert not caplog.messages
    config.method.crops = False
    crops.check(config)
    unused = "has crop1, crop2 after the first two, which method.name='byol' does not use: set "
    assert unused in caplog.messages[0]
    crops.check(config_lib.choose(config, {"method.name": "nnclr"}))
    assert "'nnclr' cannot use: take them out, or use one of byol" in caplog.messages[1]


def test_crops_of_a_method_that_cannot_use_them_are_refused():
    with pytest.raises(ValueError, match=r"nnclr\+crops: .*use one of .*simclr"):
        resnet18.get_config("cifar10,nnclr+crops")


@pytest.mark.parametrize(
    "word, sizes, scales",
    [
        ("cifar10,byol+crops", [0, 0, *[18] * 6], [(0.2, 1.0), (0.08, 0.5)]),
        ("imagenet,simclr+saib+crops", [0, 0, *[96] * 6], [(0.08, 1.0), (0.08, 1.0)]),
        ("cifar10,byol+crops+blur,small", [0, 0, 9, 9], [(0.2, 1.0), (0.08, 0.5)]),
    ],
)
def test_crops_are_two_large_views_and_small_ones(word, sizes, scales):
    config = resnet18.get_config(word)
    views = [config.augment[name] for name in config.augment.views]
    assert [view.size for view in views] == sizes
    assert [tuple(views[i].crop.scale) for i in (0, -1)] == scales
    assert config.method.crops
    assert all((view.blur.prob == 0.5) == ("blur" in word) for view in views[2:])
    config_lib.check(config, 2)
