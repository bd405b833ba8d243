"""The job `export`: what it writes and refuses, and that other programs take it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_vit
import torch_files
from safetensors.numpy import load_file

from iecl_jax import config as config_lib
from iecl_jax import evals
from iecl_jax.evals.parts import export
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.default_folder import default_folder

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = (
    *("--config=configs/quickstart.py", "--config.train.num_steps=8"),
    *("--config.train.batch_size=32", "--config.saib.group_size=16"),
    *("--config.schedule.warmup_epochs=0", "--config.checkpoint.keep_best=0"),
    *("--config.optimizer.learning_rate=3.0", "--config.eval.names=('knn',)"),
    *("--config.eval.pictures=False", "--config.diagnostics.every_steps=0"),
)


def config_of(checkpoint, **settings):
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    return config_lib.load("configs/export.py", [f"--config.checkpoint={checkpoint}", *overrides])


def write_folder(folder, named, *, size, feature_dim=0):
    """A folder as the export writes it, of which the weights are `named`."""
    folder.mkdir()
    torch_files.write(folder / "model.safetensors", named)
    own = {"encoder": {"feature_dim": feature_dim, "output_stride": 16}}
    own["data"] = {"name": "digits"}
    facts = {"pretrained_cfg": {"input_size": [3, size, size]}, "iecl_jax": own}
    (folder / "config.json").write_text(json.dumps(facts))
    return folder


def test_what_was_read_is_written_and_read_again(tmp_path, capsys):
    named = torch_files.arrays(num_classes=5)
    given = write_folder(tmp_path / "given", named, size=16, feature_dim=5)
    export.run(config_of(given), str(tmp_path / "out"))
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == named.keys()
    for name, values in written.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(values, named[name])
    facts = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (facts["architecture"], facts["num_classes"], facts["num_features"]) == (
        "resnet10",
        5,
        32,
    )
    timm, own = facts["pretrained_cfg"], facts["iecl_jax"]
    assert timm["input_size"] == [3, 16, 16]
    assert timm["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert own["encoder"] == {"stem": "cifar", "width": 4, "feature_dim": 5, "output_stride": 16}
    assert own["data"]["name"] == "digits"
    assert "dir" not in own["data"]
    assert own["trained"] == {"what": "the ResNet of given"}
    assert "SimCLR" not in capsys.readouterr().out  # of which only the encoder is known
    (config, weights), (again, same) = map(load_for_evaluation, (given, tmp_path / "out"))
    assert config.encoder == again.encoder
    assert config.data == again.data
    jax.tree.map(np.testing.assert_array_equal, weights["params"], same["params"])
    jax.tree.map(np.testing.assert_array_equal, weights["method_state"], same["method_state"])


def test_nothing_is_overwritten_and_folders_have_names(tmp_path):
    file = torch_files.write(tmp_path / "x.npz", torch_files.arrays())
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("mine")
    with pytest.raises(ValueError, match=r"has a config\.json, which stays: name another"):
        export.run(config_of(file), str(out))
    assert [path.name for path in out.iterdir()] == ["config.json"]
    assert (out / "config.json").read_text() == "mine"

    run = tmp_path / "run"
    run.mkdir()

    def folder(checkpoint, *flags):
        words = [f"--config.checkpoint={checkpoint}", *flags]
        loaded = config_lib.parse("configs/export.py", words)
        return default_folder("configs/export.py", loaded.config, loaded.changed)

    assert folder(run) == run / "exports" / "safetensors"
    assert folder(run, "--config.format=onnx") == run / "exports" / "onnx"
    assert folder(run, "--config.best=True") == run / "exports" / "safetensors-best=True"
    (run / "exports" / "safetensors").mkdir(parents=True)
    (run / "exports" / "safetensors" / "config.json").write_text("{}")
    assert folder(run) == run / "exports" / "safetensors-2"
    assert folder(file).parent == pathlib.Path("runs")


def test_a_format_that_does_not_fit_is_refused_in_a_sentence(tmp_path):
    file = torch_files.write(tmp_path / "x.npz", torch_files.arrays())
    if importlib.util.find_spec("jax2onnx") is None:
        with pytest.raises(ValueError, match="needs the package jax2onnx in an environment"):
            export.run(config_of(file, format="onnx"), str(tmp_path / "onnx"))
        assert not (tmp_path / "onnx").exists()
    vit = config_lib.load(
        "configs/imagenet_r50.py:100,smoke", [f"--config.encoder.name={tiny_vit.__file__}"]
    )
    with pytest.raises(ValueError, match=r"only a ResNet has, and the encoder is .*tiny_vit\.py"):
        export._safetensors(export.Network(vit, {}, {}, {}))


@pytest.mark.slow
def test_the_program_for_jax_computes_the_features_of_any_number_of_images(tmp_path):
    named = torch_files.arrays()
    given = write_folder(tmp_path / "given", named, size=8)
    export.run(config_of(given, format="stablehlo"), str(tmp_path / "out"))
    own = json.loads((tmp_path / "out" / "config.json").read_text())["iecl_jax"]
    content = (tmp_path / "out" / "model.stablehlo").read_bytes()
    program = jax.export.deserialize(bytearray(content))
    assert program.platforms == ("cpu", "cuda")
    assert "uint8 [b, 8, 8, 3]" in own["input"]
    assert own["call"].startswith("jax.export.deserialize(bytearray(open('model.stablehlo'")
    encoder = evals.load(given, batch_size=4)
    for count in (1, 5):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
        got = program.call(jnp.asarray(pixels))
        np.testing.assert_allclose(got, encoder(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_onnx_computes_the_same(tmp_path):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    given = write_folder(tmp_path / "given", torch_files.arrays(), size=8)
    export.run(config_of(given, format="onnx"), str(tmp_path / "out"))
    session = runtime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    encoder = evals.load(given, batch_size=4)
    for count in (1, 3):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
        (got,) = session.run(None, {session.get_inputs()[0].name: pixels})
        np.testing.assert_allclose(got, encoder(pixels), rtol=1e-4, atol=1e-5)


def command(*arguments) -> None:
    words = [sys.executable, "-m", "iecl_jax.main", *map(str, arguments)]
    # Whole networks run here, for which the compiler's optimisations pay.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, stem", [("resnet18", "imagenet"), ("resnet18", "cifar"), ("resnet50", "imagenet")]
)
def test_torchvision_and_timm_take_what_a_training_exports(tmp_path, name, stem):
    """The user's commands, from the training to the features of the other programs."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    run = tmp_path / "run"
    settings = {"name": name, "stem": stem, "width": 64}
    flags = [f"--config.encoder.{key}={value}" for key, value in settings.items()]
    command(*DIGITS, *flags, f"--workdir={run}")
    command("--config=configs/export.py", f"--config.checkpoint={run}")
    folder = run / "exports" / "safetensors"
    facts = json.loads((folder / "config.json").read_text())
    size = facts["pretrained_cfg"]["input_size"][1]
    pixels = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), np.uint8)
    ours = evals.load(run, batch_size=8)(pixels)
    np.testing.assert_allclose(evals.load(folder, batch_size=8)(pixels), ours, rtol=1e-4, atol=1e-5)

    mean, std = (torch.tensor(facts["pretrained_cfg"][key]) for key in ("mean", "std"))
    images = ((torch.tensor(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    network = getattr(models, name)()
    if stem == "cifar":
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    weights = safetensors.load_file(folder / "model.safetensors")
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    network.fc = torch.nn.Identity()
    networks = [network]
    if stem == "imagenet":
        networks.append(timm.create_model(f"local-dir:{folder}", pretrained=True))
    for each in networks:
        with torch.no_grad():
            theirs = each.eval()(images).numpy()
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())
