"""Weights of other programs: names, shapes, prefixes, types, and what is wrong with bad files."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch_files
from sklearn import linear_model, neighbors, pipeline, preprocessing

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.data.sources import tfds
from iecl_jax.evals.parts.jobs import with_images
from iecl_jax.models import build, torch_names
from iecl_jax.run.checkpoint import load_for_evaluation

ROOT = pathlib.Path(__file__).parent.parent


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def encoder_of(weights):
    """(params, batch_stats) of what was loaded, which has nothing but an encoder."""
    assert weights["params"].keys() == weights["method_state"].keys() == {"online"}
    params, stats = weights["params"]["online"], weights["method_state"]["online"]
    assert params.keys() == stats.keys() == {"encoder"}
    return params["encoder"], stats["encoder"]


@pytest.mark.parametrize("kernel, suffix, side", [(3, ".npz", 5), (7, ".safetensors", 17)])
def test_features_of_a_file_are_those_of_a_loop_in_float64(tmp_path, kernel, suffix, side):
    named = torch_files.arrays(kernel=kernel, num_classes=10)
    config, weights = load_for_evaluation(torch_files.write(tmp_path / f"x{suffix}", named))
    assert (config.encoder.name, config.encoder.width) == ("resnet10", 4)
    assert config.encoder.stem == {3: "cifar", 7: "imagenet"}[kernel]
    assert config.data.image_size == {3: 32, 7: 224}[kernel]
    params, stats = encoder_of(weights)
    x = np.random.default_rng(1).normal(size=(2, side, side, 3))
    apply = jax.jit(lambda v, x: build.encoder(config).apply(v, x, train=False)["pooled"])
    got = apply({"params": params, "batch_stats": stats}, jnp.float32(x))
    expected = torch_files.features(named, x, kernel=kernel)
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, num_classes", [("resnet10", 3), pytest.param("resnet50", 0, marks=pytest.mark.slow)]
)
def test_names_and_shapes_survive_the_way_in_and_out(name, num_classes):
    named = torch_files.arrays(name, width=2, kernel=7, num_classes=num_classes)
    found, params, stats = torch_names.from_torch(named, with_fc=True)
    assert found == (name, "imagenet", 2, num_classes)
    assert ("feature" in params) == (num_classes > 0)
    back = torch_names.to_torch(params, stats)
    assert back.keys() == named.keys()
    for key, values in named.items():
        counter = key.endswith("num_batches_tracked")
        np.testing.assert_array_equal(back[key], np.int64(0) if counter else values)
        assert back[key].dtype == values.dtype


def renamed(named, prefix):
    return {prefix + name: values for name, values in named.items()}


def sequential(named):
    """The names in torch.nn.Sequential(*resnet.children())."""
    number = {"conv1": "0", "bn1": "1"} | {f"layer{i}": str(i + 3) for i in (1, 2, 3, 4)}
    split = ((name.partition("."), values) for name, values in named.items())
    return {f"{number[first]}.{rest}": values for (first, _, rest), values in split}


@pytest.mark.parametrize(
    "around",
    [
        lambda a, b: a | {"fc.weight": np.ones((5, 32)), "fc.bias": np.ones(5)},
        lambda a, b: (
            renamed(a, "module.encoder_q.")
            | renamed(b, "module.encoder_k.")
            | {"module.encoder_q.fc.0.weight": np.ones((2, 2)), "module.queue": np.ones((3, 4))}
        ),
        lambda a, b: (
            renamed(a, "module.")
            | {
                "module.projection_head.0.weight": np.ones(2),
                "module.prototypes.weight": np.ones(3),
            }
        ),
        lambda a, b: renamed(a, "backbone.") | renamed(b, "backbone_momentum."),
        lambda a, b: renamed(a, "student.backbone.") | renamed(b, "teacher.backbone."),
        lambda a, b: renamed(a, "teacher.backbone."),
        lambda a, b: renamed(sequential(a), "backbone.") | {"projection_head.0.x": np.ones(2)},
    ],
    ids=["torchvision", "moco", "swav", "byol", "dino", "teacher", "sequential"],
)
def test_prefixes_and_heads_are_taken_off(around):
    named, other = torch_files.arrays(), torch_files.arrays(seed=1)
    expected = torch_names.from_torch(named)
    same(torch_names.from_torch(around(named, other)), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_types_are_read_as_float32(tmp_path, dtype):
    named = {
        name: values.astype(dtype) if values.dtype == np.float32 else values
        for name, values in torch_files.arrays().items()
    }
    file = torch_files.write(tmp_path / "half.safetensors", named)
    params, stats = encoder_of(load_for_evaluation(file)[1])
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {np.dtype(np.float32)}
    expected = np.float32(named["layer2.0.conv1.weight"]).transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["layer2_0"]["conv1"]["kernel"], expected)


def test_a_folder_says_what_the_images_were(tmp_path):
    torch_files.write(tmp_path / "model.safetensors", torch_files.arrays())
    own = {"data": {"name": "digits"}, "trained": {"steps": 9}}
    timm = {"input_size": [3, 16, 16], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
    facts = {"architecture": "resnet10", "pretrained_cfg": timm, "iecl_jax": own}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    config, weights = load_for_evaluation(tmp_path)
    assert config.data.image_size == 16
    assert (config.data.mean, config.data.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert (config.data.name, weights["step"]) == ("digits", 9)
    images = with_images(config, config_like(name="generated"))
    assert images.data.mean == (0.5, 0.4, 0.3)


def config_like(**settings):
    overrides = [f"--config.data.{name}={value}" for name, value in settings.items()]
    return config_lib.load("configs/knn.py", overrides).data


def without(name):
    return {key: x for key, x in torch_files.arrays().items() if key != name}


BAD = {
    "missing": (
        without("layer2.0.bn1.bias"),
        "is no resnet10 of width 4 with the stem 'cifar', as its names suggest: it lacks "
        "layer2.0.bn1.bias: name another",
    ),
    "extra": (
        torch_files.arrays() | {"layer1.0.se.fc1.weight": np.ones((2, 2), np.float32)},
        "it has the unknown layer1.0.se.fc1.weight: name another",
    ),
    "another stem": (
        without("conv1.weight") | {"conv1.0.weight": np.ones((2, 3, 3, 3), np.float32)},
        "has no conv1.weight, where the stem of a ResNet is",
    ),
    "size of the stem": (
        torch_files.arrays(kernel=5),
        "has conv1.weight of [4, 3, 5, 5], where the stem of a ResNet is [width, 3, 7, 7] or",
    ),
    "shapes": (
        torch_files.arrays() | {"layer4.0.conv2.weight": np.ones((32, 16, 3, 3), np.float32)},
        "it has other shapes, layer4.0.conv2.weight [32, 16, 3, 3] instead of [32, 32, 3, ",
    ),
    "another architecture": (
        torch_files.arrays() | {"layer1.1.conv1.weight": np.ones((4, 4, 3, 3), np.float32)},
        "has 2, 1, 1, 1 basic blocks in its layers, as none of resnet10, resnet18, ",
    ),
    "no ResNet": (
        {f"blocks.{i}.attn.qkv.weight": np.ones((2, 2), np.float32) for i in range(5)},
        "has no key layer1.0.conv1.weight, with or without a prefix, so it is no ResNet; it begins "
        "with blocks.0.attn.qkv.weight, blocks.1.attn.qkv.weight, blocks.2.attn.qkv.weight, ... "
        "(5 in all)",
    ),
    "two": (
        renamed(torch_files.arrays(), "a.") | renamed(torch_files.arrays(), "b."),
        "has several ResNets, under a., b.: leave one of them in it",
    ),
    "not finite": (
        torch_files.arrays() | {"bn1.bias": np.full(4, np.nan, np.float32)},
        "has values in bn1.bias that are no finite numbers",
    ),
}


def refused(path) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        load_for_evaluation(path)
    words = str(caught.value)
    assert str(path) in words
    assert "\n" not in words
    return words


@pytest.mark.parametrize("named, words", BAD.values(), ids=list(BAD))
def test_a_file_that_is_no_resnet_is_refused_in_a_sentence(tmp_path, named, words):
    assert words in refused(torch_files.write(tmp_path / "x.safetensors", named))


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path):
    for suffix in (".safetensors", ".npz"):
        whole = torch_files.write(tmp_path / f"whole{suffix}", torch_files.arrays())
        content = whole.read_bytes()
        for number, part in enumerate((content[: len(content) // 2], b"", b"no weights at all")):
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(part)
            assert "is damaged or was not written to its end; copy or convert" in refused(path)
        assert f"there is no file {tmp_path}/gone{suffix}" in refused(tmp_path / f"gone{suffix}")
    np.savez(tmp_path / "pickled.npz", a=np.array([{}], dtype=object))
    assert "Object arrays cannot be loaded" in refused(tmp_path / "pickled.npz")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    assert "cannot be read as .npz" in refused(tmp_path / "single.npz")
    (tmp_path / "x.h5").write_text("")
    assert "name one that ends in .safetensors or .npz" in refused(tmp_path / "x.h5")
    with pytest.raises(ValueError, match="best=True chooses a checkpoint of a run"):
        load_for_evaluation(tmp_path / "whole.npz", best=True)


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "b c.pt", "pytorch_model.bin", "a.ckpt"])
def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path, name):
    words = refused(tmp_path / name)
    assert 'python -c "import torch; from safetensors.torch import save_file; d = ' in words
    assert f"{(tmp_path / name).with_suffix('.safetensors')}" in words


def test_a_folder_with_a_pickle_is_refused_with_the_same_line(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "is a pickle, which could run any code, and is not read: convert" in refused(tmp_path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "cannot be read"),
        ("[]", "is no JSON object"),
        ('{"pretrained_cfg": {"input_size": [3, 16, 24]}}', "input_size [3, 16, 24] is no square"),
        ('{"pretrained_cfg": {"mean": 3}}', "cannot be used"),
        ('{"pretrained_cfg": {"mean": [0.5]}}', "data.mean=(0.5,) must be"),
        ('{"iecl_jax": {"digest": "00"}}', "is not the file that config.json beside it describes"),
    ],
)
def test_facts_that_do_not_fit_are_refused(tmp_path, text, words):
    torch_files.write(tmp_path / "model.safetensors", torch_files.arrays())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError) as caught:
        load_for_evaluation(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_foreign_backbone_has_the_accuracies_of_its_features_in_scikit_learn(tmp_path):
    """The user's commands on a file of random weights, on data that the command names."""
    named = torch_files.arrays(width=8)
    file = torch_files.write(tmp_path / "x.safetensors", named)
    images = ["--config.data.name=digits", "--config.data.image_size=8"]
    scores = {}
    for name, flags in (("knn", []), ("linear", ["--config.linear.num_epochs=300"])):
        words = [f"--config=configs/evaluate.py:{name}", f"--config.checkpoint={file}", *images]
        words += flags
        words += [f"--workdir={tmp_path / name}", "--noconfig.pictures"]
        done = subprocess.run(
            [sys.executable, "-m", "iecl_jax.main", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        scores |= json.loads((tmp_path / name / "results.json").read_text())["metrics"]
    digits = config_lib.new()
    digits = config_lib.choose(digits, {"data.name": "digits"}).data
    digits.image_size = 8
    found = {}
    for name in ("train", "test"):
        split = data.open_split(digits, name)
        (batch,) = data.eval_batches(digits, split, len(split))
        pixels = (batch["image"] / 255 - np.array(tfds.MEAN)) / np.array(tfds.STD)
        found[name] = torch_files.features(named, pixels), batch["label"]
    nearest = neighbors.KNeighborsClassifier(
        20, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07)
    ).fit(*found["train"])
    assert scores["knn_top1"] == pytest.approx(nearest.score(*found["test"]), abs=1.5 / 360)
    scaled = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=1.0, max_iter=2000)
    ).fit(*found["train"])
    # Another optimizer and another regularisation of the same classifier.
    assert scores["linear_top1"] == pytest.approx(scaled.score(*found["test"]), abs=0.06)
