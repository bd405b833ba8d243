"""Encoders that are no ResNets: a file anywhere trains, resumes and is evaluated."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import tiny_vit

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.config import kinds
from iecl_jax.models import build
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.tools.benchmark import roofline
from iecl_jax.tools.figures import report

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = "configs/imagenet_r50.py:100,smoke"
WITHOUT_STATISTICS = (
    "--config.projector.hidden_bn=False",
    "--config.projector.output_bn=False",
    "--config.saib.variant=expansive",
)


@pytest.fixture
def vit(tmp_path) -> str:
    return shutil.copy(tiny_vit.__file__, tmp_path / "vit.py")


def run(*arguments) -> str:
    """What the user's command prints."""
    command = [sys.executable, "-m", "iecl_jax.main", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def config_of(vit: str, *overrides: str) -> ml_collections.ConfigDict:
    return config_lib.load(SMOKE, [f"--config.encoder.name={vit}", *overrides])


@pytest.mark.slow
@pytest.mark.parametrize(
    "without",
    [(), WITHOUT_STATISTICS],
    ids=["BN elsewhere", "no BN"],
)
def test_a_vision_transformer_trains_resumes_and_is_evaluated(vit, tmp_path, without):
    workdir = tmp_path / "run"
    command = [
        f"--config={SMOKE}",
        f"--config.encoder.name={vit}",
        "--config.encoder.depth=1",
        "--config.data.image_size=16",
        "--config.eval.linear.num_epochs=0",
        f"--workdir={workdir}",
        *without,
    ]
    run(*command)
    first = json.loads((workdir / "results.json").read_text())
    diagnostics = first["metrics"]["diagnostics"]
    assert diagnostics["rank_me"] > 1
    assert np.isfinite(diagnostics["log_det"])
    assert not any(name.startswith("conv_") for name in diagnostics)
    config, weights = load_for_evaluation(workdir)
    assert config.encoder.depth == 1
    assert "attention0" in weights["params"]["online"]["encoder"]
    statistics = weights["method_state"].get("online", {})
    assert set(statistics) == (set() if without else {"projector"})

    shutil.rmtree(workdir / "checkpoints" / "4")
    (workdir / "results.json").unlink()
    assert "from step 2 of 4" in run(*command)
    again = json.loads((workdir / "results.json").read_text())
    assert again["params_digest"] == first["params_digest"]

    knn = tmp_path / "knn"
    evaluate = ["--config=configs/knn.py", f"--config.checkpoint={workdir}"]
    run(*evaluate, "--trust_checkpoint_code", f"--workdir={knn}")
    measured = json.loads((knn / "results.json").read_text())["metrics"]["knn_top1"]
    assert measured == again["metrics"]["knn_top1"]


def test_settings_are_those_of_the_file(vit):
    config = config_of(vit, "--config.encoder.depth=3")
    own = {"patch", "dim", "num_heads", "depth"}
    assert set(config.encoder) == {"name", "bn_group", "init_from"} | own
    assert build.encoder(config).depth == 3
    back = config_lib.load(SMOKE, [f"--config.encoder.name={vit}", "--config.encoder.patch=4"])
    assert back.encoder.patch == 4


@pytest.mark.parametrize(
    "setting, sentence",
    [
        ("encoder.patch=5", r"encoder.patch=5 must divide data.image_size \(32\)"),
        ("encoder.width=5", "no key 'encoder.width'"),
        ("encoder.depth=-1", "encoder.depth=-1 must be from 1 to"),
    ],
)
def test_a_wrong_setting_is_one_sentence(vit, setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        config_lib.check(config_of(vit, f"--config.{setting}"), 1)


def test_settings_of_another_encoder_are_one_sentence(vit):
    config = config_of(vit)
    config.encoder.spectral_norm = True
    with pytest.raises(ValueError, match=r"encoder.spectral_norm is no setting of encoder.name="):
        config_lib.check(config, 1)


def test_pooled_features_of_the_wrong_type_are_one_sentence(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from flax import linen as nn\n"
        "from iecl_jax.config.section import Section\n"
        "class Settings(Section): pass\n"
        "class Wrong(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x, *, train, num_views=1, running_views=1):\n"
        "        return {'pooled': nn.Dense(3)(x)}\n"
        "def make(config, *, axis_name=None): return Wrong()\n"
    )
    method = methods.make(config_of(str(path)), total_steps=1)
    with pytest.raises(ValueError, match=r"float32 \[8, 4, 4, 3\] as 'pooled'.* \[8, F\]"):
        jax.eval_shape(method.init, jax.random.key(0), [jnp.zeros((8, 4, 4, 3))] * 2)


@pytest.mark.quick
@pytest.mark.parametrize("module", sorted(set(kinds.files("encoder").values())))
def test_every_encoder_of_the_package_gives_features(module):
    name = next(name for name, file in kinds.files("encoder").items() if file == module)
    config = config_lib.load(SMOKE, [f"--config.encoder.name={name}"])
    config_lib.check(config, 1)
    method = methods.make(config, total_steps=1)
    images = jnp.zeros((4, config.data.image_size, config.data.image_size, 3))
    variables = jax.eval_shape(method.init, jax.random.key(0), [images] * 2)
    features = jax.eval_shape(method.encode, *variables, images)["pooled"]
    assert (features.ndim, len(features), features.dtype) == (2, 4, jnp.float32)


def test_resnets_are_offered_by_name():
    assert {f"resnet{depth}" for depth in (10, 18, 34, 50, 101)} <= set(kinds.names("encoder"))


def test_tools_cope_with_an_encoder_that_is_no_resnet(vit, tmp_path):
    config = config_of(vit)
    assert roofline.conv_shapes(config, 1) == []
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    page = report.write(tmp_path).read_text()
    assert f"{vit}, depth=2, dim=16, num_heads=2, patch=8" in page
