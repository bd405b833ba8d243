"""Impossible configs and unknown overrides are one sentence each, before anything compiles."""

import importlib
from typing import Any

import ml_collections
import pytest

from iecl_jax import config as config_lib
from iecl_jax.config import section

pytestmark = pytest.mark.quick


def load(name: str, arg: str) -> ml_collections.ConfigDict:
    return importlib.import_module(f"iecl_jax.configs.{name}").get_config(arg)


def changed(config: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    config.update_from_flattened_dict(values)
    return config


TINY = ("imagenet_r50", "100,smoke")  # batch 16, image 32, group 4, patch 4

# Config, devices, changed values, and what the sentence holds: key, value and way out.
IMPOSSIBLE: list[tuple[tuple[str, str], int, dict[str, Any], list[str]]] = [
    (TINY, 1, {"job": "pretrian"}, ["job='pretrian'", "did you mean 'pretrain'?"]),
    (TINY, 1, {"seed": -1}, ["seed=-1", "from 0 to 2**32 - 1"]),
    (TINY, 3, {}, ["train.batch_size=16", "multiple of the 3 devices", "15 or 18 would be"]),
    (TINY, 32, {}, ["train.batch_size=16", "multiple of the 32 devices", ": 32 would be"]),
    (TINY, 1, {"train.batch_size": 0}, ["train.batch_size=0", "from 2 to"]),
    (
        TINY,
        4,
        {"saib.group_size": 8},
        ["saib.group_size=8", "the images of a device (4)", "1 or 2 or 4 would"],
    ),
    (
        TINY,
        1,
        {"saib.group_size": 32},
        ["saib.group_size=32", "the images of a device (16)", "4 or 8 or 16 would"],
    ),
    (
        TINY,
        1,
        {"saib.patch_size": 5},
        ["saib.patch_size=5", "data.image_size (32)", "2 or 4 or 8 would"],
    ),
    (TINY, 1, {"saib.patch_size": 0}, ["saib.patch_size=0", "from 1 to"]),
    (TINY, 1, {"saib.num_blocks": 0}, ["saib.num_blocks=0", "from 1 to"]),
    (TINY, 1, {"encoder.bn_group": 5}, ["encoder.bn_group=5", "(16)", "2 or 4 or 8 would"]),
    (
        TINY,
        2,
        {"train.batch_size": 24, "encoder.bn_group": 8},
        ["encoder.bn_group=8", "12 images of a device", "choose one that does"],
    ),
    (TINY, 1, {"encoder.bn_group": -4}, ["encoder.bn_group=-4", "0, or from 2 to"]),
    (
        TINY,
        1,
        {"method.queue_size": 40},
        ["method.queue_size=40", "multiple of the 16 images of a step", "32 or 48 would be"],
    ),
    (
        TINY,
        1,
        {"method.smooth.mass": 0.2, "method.smooth.k": 16},
        ["method.smooth.k=16 must be at most 15, the number of negatives"],
    ),
    (
        TINY,
        1,
        {"method.smooth.mass": 0.2, "method.smooth.k": 7, "method.smooth.strategy": "halves"},
        ["method.smooth.k=7 must be one of 5, 10, 20, 30", "method.smooth.strategy=halves"],
    ),
    (TINY, 1, {"method.name": "moco_v2x"}, ["did you mean 'moco_v2'"]),
    (TINY, 1, {"method.name": "ema"}, ["method.name='ema'", "use one of ", "moco_v2"]),
    (TINY, 1, {"method.running_stats": "query"}, ["method.running_stats='query'", "anchor, both"]),
    (TINY, 1, {"method.ema.schedule": "cos"}, ["method.ema.schedule='cos'", "constant, cosine"]),
    (TINY, 1, {"method.ema.start": 1.1}, ["method.ema.start=1.1", "from 0 to 1"]),
    (
        TINY,
        1,
        {"data.name": "cifar"},
        ["data.name='cifar'", "did you mean 'cifar10' or 'cifar100'?", "stl10"],
    ),
    (
        TINY,
        1,
        {"data.name": "image_folder", "data.test_share": 0.0},
        ["data.name='image_folder'", "needs data.dir"],
    ),
    (TINY, 1, {"data.mean": (0.5, 0.5)}, ["data.mean=(0.5, 0.5)", "() or three finite numbers"]),
    (TINY, 1, {"data.mean": (0.5, 0.5, float("nan"))}, ["data.mean=", "three finite numbers"]),
    (TINY, 1, {"data.std": (1.0, 0.0, 1.0)}, ["data.std=(1.0, 0.0, 1.0)", "above 0"]),
    (TINY, 1, {"data.cache": "gpu"}, ["data.cache='gpu'", "auto, none, host, device"]),
    (TINY, 1, {"data.image_size": 0}, ["data.image_size=0", "from 2 to"]),
    (TINY, 1, {"data.num_threads": 0}, ["data.num_threads=0", "from 1 to"]),
    (TINY, 1, {"encoder.name": "resnet05"}, ["encoder.name='resnet05'", "did you mean 'resnet"]),
    (TINY, 1, {"encoder.stem": "imagnet"}, ["encoder.stem='imagnet'", "did you mean 'imagenet'?"]),
    (
        TINY,
        1,
        {"train.precision": "float61"},
        ["train.precision='float61'", "did you mean 'float16'", "float32, bfloat16, float16"],
    ),
    (TINY, 1, {"train.num_steps": 0, "train.num_epochs": 0}, ["num_epochs", "num_steps"]),
    (TINY, 1, {"objective.kl.form": "close"}, ["objective.kl.form='close'", "'closed'?"]),
    (
        TINY,
        1,
        {"objective.kl.stop_gradient": "both"},
        ["objective.kl.stop_gradient='both'", "query, anchor, none"],
    ),
    (TINY, 1, {"objective.kl.weight": -0.1}, ["objective.kl.weight=-0.1", "at least 0"]),
    (
        TINY,
        1,
        {"objective.entropy.estimator": "renyi"},
        ["objective.entropy.estimator='renyi'", "did you mean 'renyi2'?"],
    ),
    (
        TINY,
        1,
        {"objective.entropy.estimator": "kozachenko_leonenko", "objective.entropy.neighbors": 16},
        ["objective.entropy.neighbors=16", "less than train.batch_size=16"],
    ),
    (TINY, 1, {"method.temperature": 0.0}, ["method.temperature=0.0", "more than 0"]),
    (TINY, 1, {"optimizer.name": "adma"}, ["optimizer.name='adma'", "did you mean 'adam'"]),
    (TINY, 1, {"optimizer.learning_rate": 0.0}, ["optimizer.learning_rate=0.0", "more than 0"]),
    (TINY, 1, {"optimizer.momentum": 1.0}, ["optimizer.momentum=1.0", "less than 1"]),
    (TINY, 1, {"optimizer.weight_decay": -1e-5}, ["optimizer.weight_decay=-1e-05", "at least 0"]),
    (TINY, 1, {"schedule.warmup_epochs": -1.0}, ["schedule.warmup_epochs=-1.0", "at least 0"]),
    (TINY, 1, {"augment.query.flip.prob": 1.5}, ["augment.query.flip.prob=1.5", "from 0 to 1"]),
    (TINY, 1, {"saib.side": "querry"}, ["saib.side='querry'", "did you mean 'query'?"]),
    (
        ("plug_and_play", "w_mse,smoke"),
        1,
        {"method.whitening_size": 12},
        ["train.batch_size=16", "multiple of the 12 images of method.whitening_size"],
    ),
    (
        ("plug_and_play", "w_mse,smoke"),
        1,
        {"projector.output_dim": 16},
        ["method.whitening_size=16 must be more than projector.output_dim=16"],
    ),
    (
        ("plug_and_play", "all4one,smoke"),
        1,
        {"method.transformer.num_heads": 5},
        [
            "method.transformer.num_heads=5 must divide projector.output_dim (16)",
            "2 or 4 or 8 would",
        ],
    ),
    (
        ("plug_and_play", "all4one,smoke"),
        1,
        {"method.neighbors": 33},
        ["method.neighbors=33 must be at most method.queue_size=32"],
    ),
    (
        ("plug_and_play", "nnclr,smoke"),
        1,
        {"method.queue_size": 0},
        ["method.queue_size=0 must be from 1"],
    ),
    (
        ("plug_and_play", "simsiam,smoke"),
        1,
        {"optimizer.predictor_schedule": "const"},
        ["did you mean 'constant'?"],
    ),
    (TINY, 1, {"saib.variant": "expensive"}, ["did you mean 'expansive'?", "paper, expansive"]),
    (
        TINY,
        1,
        {"saib.variant": "expansive", "saib.inner_skip": False},
        ["saib.inner_skip=False belongs to saib.variant='paper'"],
    ),
    (
        TINY,
        1,
        {"diagnostics.lanczos_depth": 20_000},
        ["diagnostics.lanczos_depth=20000", "12288 dimensions of a group", "lower it"],
    ),
    (TINY, 1, {"diagnostics.every_steps": -1}, ["diagnostics.every_steps=-1", "from 0 to"]),
    (TINY, 1, {"diagnostics.lanczos_probes": 0}, ["diagnostics.lanczos_probes=0", "from 1 to"]),
    (
        TINY,
        1,
        {"checkpoint.keep_every_steps": 3},
        ["checkpoint.keep_every_steps=3", "the 2 steps between checkpoints", "2 or 4 would"],
    ),
    (("jacobian", "smoke"), 1, {"jacobian.depth": 0}, ["jacobian.depth=0", "from 1 to"]),
    (
        ("jacobian", "smoke"),
        1,
        {"jacobian.statistics": "runing"},
        ["did you mean 'running'?", "running, batch"],
    ),
    (TINY, 1, {"checkpoint.keep": 0}, ["checkpoint.keep=0", "from 1 to"]),
    (TINY, 1, {"eval.knn.k": 0}, ["eval.knn.k=0", "from 1 to"]),
    (("knn", ""), 1, {}, ["config.checkpoint is empty", "--config.checkpoint=WORKDIR"]),
    (("knn", "smoke"), 1, {"knn.k": -1}, ["knn.k=-1", "from 0 to"]),
    (
        ("linear_probe", "smoke"),
        1,
        {"linear_probe.feature_norm": "layernorm"},
        ["linear_probe.feature_norm='layernorm'", "did you mean 'layer_norm'?"],
    ),
    (
        ("linear_probe", "smoke"),
        1,
        {"linear_probe.num_epochs": 0},
        ["linear_probe.num_epochs=0", "from 1 to"],
    ),
    (
        ("linear_probe", "smoke"),
        1,
        {"linear_probe.cached": True, "linear_probe.holdout": 1.0},
        ["linear_probe.holdout=1.0", "between 0 and 1"],
    ),
    (
        ("linear_probe", "smoke"),
        1,
        {"linear_probe.cached": True, "linear_probe.learning_rates": ()},
        ["linear_probe.learning_rates=()", "one number or more"],
    ),
]


@pytest.mark.parametrize("source, devices, values, parts", IMPOSSIBLE)
def test_impossible_values_are_one_sentence(source, devices, values, parts):
    config = changed(load(*source), values)
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
        config_lib.check(config, devices)
    for part in parts:
        assert part in str(caught.value)


def test_groups_of_batch_norm_may_span_devices_and_saib_may_be_off():
    for group in (2, 4, 8, 16):
        config_lib.check(changed(load(*TINY), {"encoder.bn_group": group}), 4)
    config = changed(load(*TINY), {"saib.enabled": False, "saib.group_size": 7})
    config_lib.check(config, 1)


@pytest.mark.parametrize(
    "values, num_images, parts",
    [
        ({"method.queue_size": 512}, 256, ["method.queue_size=512", "256 images", "lower it"]),
        ({}, 15, ["train.batch_size=16", "15 images of generated", "lower it"]),
        (
            {"schedule.warmup_epochs": 2.0},
            256,
            ["schedule.warmup_epochs=2", "32 steps", "whole run of 32", "train longer"],
        ),
        (
            {"schedule.decay": "drops", "schedule.drop_epochs": (1.0, 2.0)},
            256,
            ["schedule.drop_epochs=2", "32 steps before", "run of 32", "train longer"],
        ),
    ],
)
def test_what_does_not_fit_the_data_set_is_one_sentence(values, num_images, parts):
    config = changed(load(*TINY), values)
    config_lib.check(config, 1)
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
        config_lib.check_length(config, num_images=num_images, steps_per_epoch=16, total_steps=32)
    for part in parts:
        assert part in str(caught.value)


def test_what_just_fits_the_data_set_is_accepted():
    values = {"method.queue_size": 256, "schedule.warmup_epochs": 1.9, "train.batch_size": 256}
    config = changed(load(*TINY), values)
    config_lib.check_length(config, num_images=256, steps_per_epoch=16, total_steps=32)


@pytest.mark.parametrize(
    "name, arguments, parts",
    [
        ("quickstart", ["--config.encodr.name=x"], ["no key 'encodr.name'", "encoder.name"]),
        ("quickstart", ["--config.encoder.nme", "x"], ["no key 'encoder.nme'", "encoder.name"]),
        ("quickstart", ["--config.group_size=8"], ["no key 'group_size'", "saib.group_size"]),
        ("quickstart", ["--noconfig.saib.enable"], ["no key 'saib.enable'", "saib.enabled"]),
        ("quickstart", ["--config.zzz=1"], ["no key 'zzz'", "keys: augment", "saib"]),
        (
            "linear_probe",
            ["-config.linear_probe.rate=1"],
            ["'linear_probe.rate'", "did you mean linear_probe."],
        ),
        (
            "quickstart",
            ["--workdir=x", "--config.seed=1", "--config.train.batchsize=8"],
            ["no key 'train.batchsize'", "train.batch_size"],
        ),
    ],
)
def test_unknown_overrides_name_near_keys(name, arguments, parts):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        config_lib.parse(f"configs/{name}.py", arguments)
    for part in parts:
        assert part in str(caught.value)


def test_known_overrides_change_their_keys_and_the_rest_is_left():
    arguments = ["--config.saib.enabled=False", "--workdir=runs/x", "--config.seed", "3", "-v=1"]
    loaded = config_lib.parse("configs/quickstart.py", arguments)
    assert (loaded.config.saib.enabled, loaded.config.seed) == (False, 3)
    assert set(loaded.changed) == {"saib.enabled", "seed"}
    assert loaded.rest == ["--workdir=runs/x", "-v=1"]
    off = config_lib.parse("configs/quickstart.py", ["--noconfig.saib.enabled"])
    assert off.config.saib.enabled is False


def test_choosing_a_method_brings_its_settings_and_takes_those_of_the_other():
    overrides = ["--config.method.name=byol", "--config.method.predictor.num_layers=3"]
    config = config_lib.load("configs/quickstart.py", overrides)
    assert "temperature" not in config.method
    assert config.method.predictor.num_layers == 3
    assert config.method.ema.start == 0.9  # both have it, so it stays
    config_lib.check(config, 1)


@pytest.mark.parametrize(
    "values, parts",
    [
        ({"saib.residual_scale": float("nan")}, ["saib.residual_scale=nan", "finite"]),
        ({"optimizer.learning_rate": float("inf")}, ["learning_rate=inf", "finite"]),
        ({"augment.anchor.blur.sigma": ("a", "b")}, ["blur.sigma=('a', 'b')", "number"]),
        ({"augment.anchor.crop.scale": (0.5, 0.2)}, ["crop.scale=(0.5, 0.2)", "low <= high"]),
        ({"train.batch_size": 10**20}, [f"train.batch_size={10**20}", "10**9"]),
        ({"data.image_size": 10**20}, [f"data.image_size={10**20}", "10**4"]),
    ],
)
def test_numbers_are_finite_and_of_a_possible_size(values, parts):
    config = changed(load(*TINY), values)
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
        config_lib.check(config, 1)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "values, parts",
    [
        ({"optimizer.learning_rate": 1e308}, ["learning_rate=1e+308", "float32"]),
        ({"method.temperature": 1e-320}, ["temperature=1e-320", "float32"]),
        ({"eval.linear.learning_rates": (0.1, float("inf"))}, ["learning_rates=", "finite"]),
        ({"eval.linear.learning_rates": (-1.0,)}, ["learning_rates=(-1.0,)", "above 0"]),
        ({"data.mean": (True, 0.5, 0.5)}, ["data.mean=(True, 0.5, 0.5)", "three finite"]),
        ({"train.num_steps": -5}, ["train.num_steps=-5", "from 0 to 10**9"]),
        ({"train.num_steps": 10**5000}, ["train.num_steps=a number of 16610 bits"]),
        ({"train.batch_size": 1}, ["train.batch_size=1", "from 2"]),
        ({"encoder.bn_group": 1}, ["encoder.bn_group=1", "from 2"]),
        ({"train.steps_per_call": 10**6}, ["steps_per_call=1000000", "from 1 to 10**3"]),
        ({"projector.num_layers": 10**6}, ["num_layers=1000000", "from 1 to 10**3"]),
        ({"data.dir": "a\0b"}, ["data.dir='a\\x00b'", "text of one line"]),
        ({"data.dir": "x" * 2000}, ["data.dir='xxx", "..."]),
        ({"diagnostics.stop_on_collapse": True, "diagnostics.every_steps": 0}, ["every_steps"]),
        ({"diagnostics.min_feature_std": 2.0}, ["min_feature_std=2.0", "from 0 to 1"]),
    ],
)
def test_numbers_are_those_of_float32_and_sizes_those_of_a_machine(values, parts):
    config = load(*TINY)
    for name, value in values.items():
        section.put(config, name, value)
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as caught:
        config_lib.check(config_lib.complete(config), 1)
    for part in parts:
        assert part in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_best_is_not_kept_where_nothing_tells_which_it_is():
    config = config_lib.choose(load(*TINY), {"eval.names": ("linear",)})
    with pytest.raises(
        ValueError, match=r"keep_best=1 .* no 'knn'.* set checkpoint.keep_best=0\.$"
    ):
        config_lib.check(config, 1)
    config_lib.check_pretrain(config, 1)  # a run of earlier may be evaluated
    config_lib.check(changed(config, {"checkpoint.keep_best": 0}), 1)
