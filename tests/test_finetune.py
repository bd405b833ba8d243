"""Fine-tuning: its rates, loss, draws and refusals, and the job to its end."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_pooled
import tiny_resnet

from iecl_jax import data
from iecl_jax.config import section
from iecl_jax.configs import finetune as config_file
from iecl_jax.evals.measures import classes
from iecl_jax.evals.parts import classifier, crop_and_flip, jobs
from iecl_jax.evals.parts.backbone import Backbone
from iecl_jax.models.encoders import resnet

ROOT = pathlib.Path(__file__).parent.parent
SMALLEST = tiny_resnet.ENCODER | {"spectral_norm": True}


def config(**changes):
    found = config_file.get_config("smoke")
    found.pretrain.data.image_size = 8
    found.pretrain.encoder.update(SMALLEST)
    found.finetune.update({"batch_size": 4, "num_steps": 4, "encoder_rates": (0.01,)})
    found.update_from_flattened_dict(changes)
    return found


# ---------------------------------------------------------------- rates


def test_stages_of_a_resnet_learn_at_rates_that_fall_towards_the_stem():
    names = ["conv1", "bn1", "layer1_0", "layer2_1", "layer3_0", "layer4_2"]
    params = {"encoder": {n: {"kernel": np.ones(3)} for n in names}, "head": {"bias": np.ones(2)}}
    found = classifier.rates(params, "resnet50", (0.1, 5.0), layer_decay=0.5, name="x")
    at = [0.1 / 16, 0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1]
    for name, rate in zip(names, at, strict=True):
        np.testing.assert_allclose(found["encoder"][name]["kernel"], rate, rtol=1e-6)
    assert found["head"]["bias"] == 5.0
    same = classifier.rates(params, "resnet50", (0.1, 5.0), layer_decay=1.0, name="x")
    assert set(map(float, jax.tree.leaves(same["encoder"]))) == {float(np.float32(0.1))}
    assert resnet.depth("feature") == 5


def test_an_encoder_without_depths_has_one_rate():
    params = {"encoder": {"a": {}}, "head": {}}
    with pytest.raises(ValueError, match=r"finetune.layer_decay=0.5 needs an encoder whose file"):
        classifier.rates(params, "tests/tiny_vit.py", (1, 1), layer_decay=0.5, name="finetune")


# ---------------------------------------------------------------- loss and accuracy


def test_loss_and_gradient_are_those_of_a_softmax_regression():
    rng = np.random.default_rng(0)
    made = config()
    view = section.defaults(crop_and_flip.CropAndFlip)
    view.crop.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
    stream = crop_and_flip.stream_config(made.pretrain, view, batch_size=4, seed=0)
    start = Backbone(stream, tiny_pooled.Pooled(), {}, {})
    network = classifier.Network(start, stream, 5)
    images = rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    labels = np.array([4, 0, 1, 4], np.int32)
    head = {"kernel": np.float32(rng.normal(size=(3, 5))), "bias": np.float32(rng.normal(size=5))}
    assert network.head(0)["kernel"].shape == (3, 5)
    keys = jax.random.split(jax.random.key(0), 4)
    stats = {"encoder": {}, "head": {}}

    def loss(head):
        batch = {"image": images, "label": labels}
        return network.loss({"encoder": {}, "head": head}, stats, batch, keys)

    (value, (new, metrics)), gradient = jax.value_and_grad(loss, has_aux=True)(head)
    mean, std = (np.array(x) for x in data.statistics(made.pretrain.data))
    x = (images.astype(np.float64).mean((1, 2)) / 255 - mean) / std
    logits = x @ head["kernel"] + head["bias"]
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wrong = (chances - np.eye(5)[labels]) / 4
    np.testing.assert_allclose(value, -np.log(chances[range(4), labels]).mean(), rtol=1e-5)
    np.testing.assert_allclose(gradient["kernel"], x.T @ wrong, atol=1e-5)
    np.testing.assert_allclose(gradient["bias"], wrong.sum(0), atol=1e-6)
    assert metrics["accuracy"] == (logits.argmax(1) == labels).mean()
    assert new == stats


def test_top_k_is_the_share_of_labels_among_the_largest_logits():
    rng = np.random.default_rng(0)
    logits = rng.integers(0, 4, (50, 7)).astype(np.float32)  # with ties
    labels = rng.integers(-1, 7, 50)
    for k in (1, 3, 7):
        right = [
            label in sorted(range(7), key=lambda i: (-row[i], i))[:k]
            for row, label in zip(logits, labels, strict=True)
            if label >= 0
        ]
        assert classes.top(logits, labels, k) == pytest.approx(np.mean(right))


# ---------------------------------------------------------------- the job


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"finetune.batch_size": 3}, r"finetune.batch_size=3 must be a multiple of the 2 devices"),
        ({"finetune.batch_size": 258}, r"=258 is more than the 256 training images: lower it"),
        ({"finetune.label_share": 0.0}, r"finetune.label_share=0.0 must be more than 0 and at"),
        ({"finetune.label_share": 0.01, "finetune.batch_size": 12}, r"more than the 10 training"),
        (
            {"finetune.label_share": 0.01, "finetune.encoder_rates": (0.1, 0.2)},
            r"finetune.encoder_rates=\(0.1, 0.2\) needs a class of two labelled images",
        ),
        ({"finetune.layer_decay": 0.5}, r"finetune.layer_decay=0.5 needs an encoder whose file"),
        ({"finetune.schedule.warmup_steps": 4}, r"warmup_steps=4 must be less than .*num_steps=4"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        jobs.run(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_job_chooses_rates_and_trains_each_seed(tmp_path, precision):
    chosen = {
        "finetune.precision": precision,
        "finetune.encoder_rates": (1e-5, 0.1),
        "finetune.num_steps": 0,
        "finetune.num_epochs": 2,
        "finetune.label_share": 0.25,
        "finetune.num_seeds": 2,
    }
    results = jobs.run(config(**chosen), str(tmp_path))
    metrics = results["metrics"]
    # Of 25 or 26 images of each class a quarter is 6, of which one is held out.
    assert results["steps"] == 2 * (2 * (50 // 4) + 2 * (60 // 4))
    assert metrics["holdout_accuracy"].keys() == {"1e-05", "0.1"}
    assert 0 <= metrics["finetune_top1"] <= metrics["finetune_top5"] <= 1
    assert set(metrics["of_seeds"]) == {"42", "43"}
    mean, std = (f([*metrics["of_seeds"].values()]) for f in (np.mean, np.std))
    assert metrics["finetune_top1"] == pytest.approx(mean)
    assert metrics["finetune_top1_std"] == pytest.approx(std * 2**0.5)
    folders = {path.name.split("-", 2)[2] for path in tmp_path.glob("training-*")}
    best = f"{metrics['encoder_rate']:g}-0.1"
    assert folders == {
        "rates-1e-05-0.1",
        "rates-0.1-0.1",
        f"seed-42-rates-{best}",
        f"seed-43-rates-{best}",
    }
    assert json.loads((tmp_path / "results.json").read_text()) == results


@pytest.mark.slow
def test_rates_that_diverge_are_not_chosen(tmp_path, caplog):
    chosen = config(**{"finetune.encoder_rates": (1e30, 0.01), "finetune.num_steps": 3})
    metrics = jobs.run(chosen, str(tmp_path))["metrics"]
    assert metrics["encoder_rate"] == 0.01
    assert metrics["holdout_accuracy"]["1e+30"]["0.1"] == 0
    assert "The rates 1e+30 and 0.1 are not chosen" in caplog.text
    with pytest.raises(FloatingPointError, match=r"Lower finetune.encoder_rates and .* 1e\+30"):
        jobs.run(config(**{"finetune.encoder_rates": (1e30,)}), str(tmp_path / "other"))


@pytest.mark.slow
def test_a_killed_job_goes_on_bit_for_bit(tmp_path):
    """SIGKILL in the midst of the second of three trainings, and of the last."""

    def run(name, at):
        words = [sys.executable, "tests/killed_at.py", "checkpoints", str(at)]
        words += ["--config=configs/finetune.py:smoke", f"--workdir={tmp_path / name}"]
        words += [f"--config.pretrain.encoder.{key}={x}" for key, x in SMALLEST.items()]
        words += ["--config.pretrain.data.image_size=8"]
        done = subprocess.run(
            words,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    def touched(stderr):
        return int(stderr.rsplit("touched checkpoints: ", 1)[1])

    code, told = run("whole", 0)
    assert code == 0, told
    total = touched(told)
    assert run("parts", total // 2)[0] == -9
    assert run("parts", total // 3)[0] == -9
    code, told = run("parts", 0)
    assert code == 0, told
    assert "Resuming from step" in told
    whole, parts = (
        json.loads((tmp_path / n / "results.json").read_text()) for n in ("whole", "parts")
    )
    for results in (whole, parts):
        assert results["metrics"].pop("images_per_second") > 0
    for name in ("params_digest", "metrics", "steps"):
        assert whole[name] == parts[name]
