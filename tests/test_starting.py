"""`encoder.init_from`: a training that starts from the encoder of a file or of a run."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import torch_files

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.models import build, torch_names
from iecl_jax.models.conv import folded, normalised
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.train import starting
from iecl_jax.train.state import TrainState

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "configs/imagenet_r50.py:100,smoke"
RESNET = {"name": "resnet10", "stem": "cifar", "width": 4}


def config_of(file, **encoder) -> ml_collections.ConfigDict:
    config = config_lib.load(SMOKE)
    config.data.image_size, config.saib.enabled = 8, False
    config.encoder.update(RESNET | {"init_from": str(file)} | encoder)
    return config


@pytest.fixture(scope="module")
def named():
    return torch_files.arrays(num_classes=3)


@pytest.fixture(scope="module")
def file(named, tmp_path_factory):
    return torch_files.write(tmp_path_factory.mktemp("file") / "x.safetensors", named)


@pytest.mark.parametrize("spectral_norm", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_encoder_computes_what_the_file_does(named, file, spectral_norm):
    config = config_of(file, spectral_norm=spectral_norm)
    start = starting.read(config)
    variables = {"params": start.params, "batch_stats": start.stats}
    x = np.random.default_rng(3).normal(size=(2, 5, 5, 3))
    apply = jax.jit(lambda v, x: build.encoder(config).apply(v, x, train=False)["pooled"])
    # Normalised kernels change the share of BN's epsilon.
    np.testing.assert_allclose(
        apply(variables, jnp.float32(x)),
        torch_files.features(named, x),
        rtol=1e-3 if spectral_norm else 1e-4,
        atol=1e-3 if spectral_norm else 1e-5,
    )


def test_every_copy_of_the_encoder_starts_so_and_nothing_else(named, file):
    config = config_of(file, spectral_norm=False, feature_dim=0)
    method = methods.make(config, total_steps=1)
    shapes = jax.eval_shape(method.init, jax.random.key(0), [jnp.zeros((2, 8, 8, 3))] * 2)
    state = TrainState(jnp.int32(0), *shapes, opt_state=())
    _, params, stats = torch_names.from_torch(named)
    got = starting.put(state, starting.read(config))
    momentum = got.method_state["momentum"]
    for found, wanted in (
        (got.params["online"]["encoder"], params),
        (momentum["params"]["encoder"], params),
        (got.method_state["online"]["encoder"], stats),
        (momentum["batch_stats"]["encoder"], stats),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    rest = jax.tree.leaves((got.params["online"]["projector"], momentum["params"]["projector"]))
    assert {type(leaf) for leaf in rest} == {jax.ShapeDtypeStruct}
    assert starting.put(state, None) is state


def test_a_layer_of_features_that_the_file_lacks_stays_random(file):
    start = starting.read(config_of(file, spectral_norm=False, feature_dim=6))
    assert "feature" not in start.params


def test_normalised_kernels_have_the_norm_that_folding_divides_out():
    _, params, stats = torch_names.from_torch(torch_files.arrays())
    kernel = params["layer2_0"]["downsample_conv"]["kernel"]
    largest = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))[1][0]
    new_params, new_stats = normalised(params, stats)
    np.testing.assert_allclose(
        new_stats["layer2_0"]["downsample_conv"]["sigma"], largest, rtol=1e-5
    )
    after, before = new_stats["layer2_0"]["downsample_bn"], stats["layer2_0"]["downsample_bn"]
    np.testing.assert_allclose(after["mean"], before["mean"] / largest, rtol=1e-5)
    np.testing.assert_allclose(after["var"], before["var"] / largest**2, rtol=1e-5)
    plain, rest = folded(
        {"conv1": new_params["conv1"], "bn1": new_params["bn1"]},
        {"conv1": new_stats["conv1"], "bn1": new_stats["bn1"]},
    )
    matrix = np.asarray(plain["conv1"]["kernel"]).reshape(27, -1)
    np.testing.assert_allclose(np.linalg.svd(matrix)[1][0], 1, rtol=1e-5)
    assert rest.keys() == {"bn1"}


@pytest.mark.parametrize(
    "encoder, words",
    [
        (
            {"width": 8, "stem": "imagenet"},
            "has encoder.stem='cifar', encoder.width=4, and this run has encoder.stem='imagenet', "
            "encoder.width=8: set the same here, or name another file.",
        ),
        ({"name": "resnet50"}, "has encoder.name='resnet10', and this run has encoder.name='res"),
        ({"init_from": "gone.npz"}, "there is no file"),
        ({"init_from": "moco.pth.tar"}, "is a pickle"),
        ({"init_from": "nowhere"}, "there is no checkpoint in"),
    ],
)
def test_another_encoder_is_refused_in_a_sentence(file, encoder, words):
    with pytest.raises(ValueError) as caught:
        starting.read(config_of(file, **encoder))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_goes_on_does_not_read_the_file(tmp_path):
    config = config_of("gone.npz")
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    assert starting.read(config, str(tmp_path)) is None
    assert starting.read(config_of(""), str(tmp_path / "new")) is None


def command(*arguments, status=0) -> str:
    words = [sys.executable, "-m", "iecl_jax.main", *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_training_starts_from_a_file_and_goes_on_without_it(tmp_path, named):
    path = torch_files.write(tmp_path / "x.npz", named)
    flags = [f"--config={SMOKE}", f"--config.encoder.init_from={path}"]
    flags += [f"--config.encoder.{key}={value}" for key, value in RESNET.items()]
    flags += [f"--workdir={tmp_path / 'run'}", "--config.optimizer.learning_rate=1e-30"]
    flags += ["--config.checkpoint.every_steps=2", "--config.encoder.spectral_norm=False"]
    command(*flags, "--config.train.num_steps=2")
    _, weights = load_for_evaluation(tmp_path / "run")
    kernel = weights["params"]["online"]["encoder"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel, named["conv1.weight"].transpose(2, 3, 1, 0), rtol=1e-5)
    path.unlink()
    command(*flags, "--config.train.num_steps=4", "--allow_config_change")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 4
    other = [word for word in flags if "init_from" not in word]
    words = command(*other, "--config.train.num_steps=6", "--allow_config_change", status=1)
    assert "encoder.init_from" in words
