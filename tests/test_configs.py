"""Every config loads, is possible, has no setting that nothing reads, and states the paper's."""

import ast
import importlib
import pathlib
from typing import Any

import ml_collections
import pytest

from configs.study import SETTINGS
from iecl_jax import config as config_lib
from iecl_jax import workdir

ROOT = pathlib.Path(__file__).parent.parent
VARIANTS = {
    "imagenet_r50": ("100", "200", "400", "800"),
    "resnet18": ("cifar10", "cifar100", "stl10", "imagenet"),
    "quickstart": ("digits",),
    "knn": ("checkpoint",),
    "linear_probe": ("checkpoint",),
    "jacobian": ("checkpoint",),
    "study": tuple(SETTINGS),
}
ALL = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]
PRETRAINING = [pair for pair in ALL if pair[0] not in ("knn", "linear_probe", "jacobian")]


def load(name: str, arg: str | None = None) -> ml_collections.ConfigDict:
    get_config = importlib.import_module(f"configs.{name}").get_config
    return get_config() if arg is None else get_config(arg)


def get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def changed(config: ml_collections.ConfigDict, values: dict[str, Any]) -> ml_collections.ConfigDict:
    config.update_from_flattened_dict(values)
    return config


def test_every_file_is_tested_here():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert files - {"__init__", "common"} == set(VARIANTS)


@pytest.mark.parametrize("name, variant", ALL)
@pytest.mark.parametrize("smoke", [False, True])
def test_configs_load_and_are_possible(name, variant, smoke):
    config = load(name, f"{variant},smoke" if smoke else variant)
    if config.job != "pretrain" and not smoke:
        config.checkpoint = "x"
    config_lib.check(config, 1)
    config_lib.check(workdir.config_from_json(workdir.config_to_json(config)), 1)
    if smoke and config.job != "pretrain":
        config_lib.check_pretrain(config.pretrain, 1)
    elif smoke:
        assert config.train.num_steps == 4
        assert config.data.name == "generated"
        config_lib.check(config, 2)
        config_lib.check_length(config, num_images=256, steps_per_epoch=16, total_steps=4)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_empty_or_bare_smoke_argument_is_the_first_variant(name):
    first = VARIANTS[name][0]
    assert load(name) == load(name, first)
    assert load(name, "smoke") == load(name, f"{first},smoke") != load(name, first)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("arg", ["nothing", "nothing,smoke", "smoke,100,200"])
def test_unknown_variants_name_the_choices(name, arg):
    choices = ", ".join(VARIANTS[name])
    message = f"config variant '{arg}' is unknown: use one of {choices}"
    with pytest.raises(ValueError, match=message):
        load(name, arg)


def words_that_are_read() -> set[str]:
    """Attributes and strings in iecl_jax, leaving out what only checks a config."""
    words = set()
    paths = set((ROOT / "iecl_jax").rglob("*.py")) - {
        ROOT / "iecl_jax" / "config.py",
        ROOT / "iecl_jax" / "augment" / "checks.py",
    }
    for path in paths:
        todo: list[ast.AST] = [ast.parse(path.read_text())]
        while todo:
            node = todo.pop()
            if isinstance(node, ast.FunctionDef) and node.name.strip("_").startswith("check"):
                continue
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
            todo += ast.iter_child_nodes(node)
    return words


def test_every_setting_is_read_by_something():
    leaves = {leaf for pair in ALL for leaf in config_lib.leaf_names(load(*pair))}
    assert len(leaves) > 100
    words = words_that_are_read()
    unread = sorted(leaf for leaf in leaves if leaf.split(".")[-1] not in words)
    assert not unread, f"nothing in iecl_jax reads {', '.join(unread)}"


TINY = ("imagenet_r50", "100,smoke")  # batch 16, image 32, group 4, patch 4

# Config, devices, changed values, and what the sentence holds: key, value and way out.
IMPOSSIBLE: list[tuple[tuple[str, str], int, dict[str, Any], list[str]]] = [
    (TINY, 1, {"job": "pretrian"}, ["job='pretrian'", "did you mean 'pretrain'?"]),
    (TINY, 1, {"seed": -1}, ["seed=-1", "from 0 to 2**32 - 1"]),
    (TINY, 3, {}, ["train.batch_size=16", "multiple of the 3 devices", "15 or 18 would be"]),
    (TINY, 32, {}, ["train.batch_size=16", "multiple of the 32 devices", ": 32 would be"]),
    (TINY, 1, {"train.batch_size": 0}, ["train.batch_size=0", "more than 0"]),
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
    (TINY, 1, {"saib.patch_size": 0}, ["saib.patch_size=0", "more than 0"]),
    (TINY, 1, {"saib.num_blocks": 0}, ["saib.num_blocks=0", "more than 0"]),
    (TINY, 1, {"encoder.bn_group": 5}, ["encoder.bn_group=5", "(16)", "2 or 4 or 8 would"]),
    (
        TINY,
        2,
        {"train.batch_size": 24, "encoder.bn_group": 8},
        ["encoder.bn_group=8", "12 images of a device", "choose one that does"],
    ),
    (TINY, 1, {"encoder.bn_group": -4}, ["encoder.bn_group=-4", "at least 0"]),
    (
        TINY,
        1,
        {"method.queue_size": 40},
        ["method.queue_size=40", "multiple of the 16 images of a step", "32 or 48 would be"],
    ),
    (TINY, 1, {"method.name": "moco_v2x"}, ["did you mean 'moco_v2'?"]),
    (TINY, 1, {"method.name": "ema"}, ["method.name='ema'", "use one of ", "moco_v2"]),
    (TINY, 1, {"method.running_stats": "query"}, ["method.running_stats='query'", "anchor, both"]),
    (TINY, 1, {"method.ema.schedule": "cos"}, ["method.ema.schedule='cos'", "constant, cosine"]),
    (TINY, 1, {"method.ema.start": 1.1}, ["method.ema.start=1.1", "from 0 to 1"]),
    (
        TINY,
        1,
        {"data.name": "cifar"},
        ["data.name='cifar'", "did you mean cifar10 or cifar100?", "stl10"],
    ),
    (TINY, 1, {"data.name": "image_folder"}, ["data.name='image_folder'", "needs data.dir"]),
    (TINY, 1, {"data.cache": "gpu"}, ["data.cache='gpu'", "none, host, device"]),
    (TINY, 1, {"data.image_size": 0}, ["data.image_size=0", "at least 1"]),
    (TINY, 1, {"data.num_threads": 0}, ["data.num_threads=0", "at least 1"]),
    (TINY, 1, {"encoder.name": "resnet05"}, ["encoder.name='resnet05'", "did you mean 'resnet"]),
    (TINY, 1, {"encoder.stem": "imagnet"}, ["encoder.stem='imagnet'", "did you mean 'imagenet'?"]),
    (
        TINY,
        1,
        {"train.precision": "float61"},
        ["train.precision='float61'", "did you mean 'float16'?", "float32, bfloat16, float16"],
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
    (TINY, 1, {"optimizer.name": "adam"}, ["optimizer.name='adam'", "did you mean 'adamw'?"]),
    (TINY, 1, {"optimizer.learning_rate": 0.0}, ["optimizer.learning_rate=0.0", "more than 0"]),
    (TINY, 1, {"optimizer.momentum": 1.0}, ["optimizer.momentum=1.0", "less than 1"]),
    (TINY, 1, {"optimizer.weight_decay": -1e-5}, ["optimizer.weight_decay=-1e-05", "at least 0"]),
    (TINY, 1, {"schedule.warmup_epochs": -1.0}, ["schedule.warmup_epochs=-1.0", "at least 0"]),
    (TINY, 1, {"augment.query.flip_prob": 1.5}, ["augment.query.flip_prob is 1.5", "[0, 1]"]),
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
    (TINY, 1, {"diagnostics.every_steps": -1}, ["diagnostics.every_steps=-1", "at least 0"]),
    (TINY, 1, {"diagnostics.lanczos_probes": 0}, ["diagnostics.lanczos_probes=0", "more than 0"]),
    (
        TINY,
        1,
        {"checkpoint.keep_every_steps": 3},
        ["checkpoint.keep_every_steps=3", "the 2 steps between checkpoints", "2 or 4 would"],
    ),
    (("jacobian", "smoke"), 1, {"jacobian.depth": 0}, ["jacobian.depth=0", "more than 0"]),
    (
        ("jacobian", "smoke"),
        1,
        {"jacobian.statistics": "runing"},
        ["did you mean 'running'?", "running, batch"],
    ),
    (TINY, 1, {"checkpoint.keep": 0}, ["checkpoint.keep=0", "more than 0"]),
    (TINY, 1, {"eval.knn_k": 0}, ["eval.knn_k=0", "more than 0"]),
    (("knn", ""), 1, {}, ["config.checkpoint is empty", "--config.checkpoint=WORKDIR"]),
    (("knn", "smoke"), 1, {"knn.k": -1}, ["knn.k=-1", "at least 0"]),
    (
        ("linear_probe", "smoke"),
        1,
        {"probe.feature_norm": "layernorm"},
        ["probe.feature_norm='layernorm'", "did you mean 'layer_norm'?"],
    ),
    (
        ("linear_probe", "smoke"),
        5,
        {},
        ["probe.batch_size=32", "multiple of the 5 devices", "30 or 35 would be"],
    ),
    (("linear_probe", "smoke"), 1, {"probe.num_epochs": 0}, ["probe.num_epochs=0", "more than 0"]),
    (
        ("linear_probe", "smoke"),
        1,
        {"probe.cached": True, "probe.holdout": 1.0},
        ["probe.holdout=1.0", "between 0 and 1"],
    ),
    (
        ("linear_probe", "smoke"),
        1,
        {"probe.cached": True, "probe.learning_rates": ()},
        ["probe.learning_rates=()", "one rate or more"],
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
        ("linear_probe", ["-config.probe.rate=1"], ["'probe.rate'", "did you mean probe."]),
        (
            "quickstart",
            ["--workdir=x", "--config.seed=1", "--config.train.batchsize=8"],
            ["no key 'train.batchsize'", "train.batch_size"],
        ),
    ],
)
def test_unknown_overrides_name_near_keys(name, arguments, parts):
    sentence = config_lib.unknown_override(load(name), arguments)
    assert sentence is not None
    for part in parts:
        assert part in sentence


def test_known_overrides_are_no_mistake():
    arguments = ["--config=configs/quickstart.py", "--config.saib.enabled=True", "--workdir=runs/x"]
    arguments += ["--config.saib={}", "--noconfig.saib.enabled", "--config.seed", "3"]
    assert config_lib.unknown_override(load("quickstart"), arguments) is None


PAPER = {  # section 4.1; the paper's AdamW does not learn at this rate, so SGD is the default
    "seed": 42,
    "train.batch_size": 256,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.3,
    "optimizer.weight_decay": 1e-5,
    "optimizer.momentum": 0.9,
    "method.ema.schedule": "constant",
    "method.ema.start": 0.9,
    "objective.entropy.weight": 0.2,
    "objective.kl.weight": 0.09,
    "objective.saib_decay": 1e-4,
    "projector.num_layers": 3,
    "projector.hidden_dim": 4096,
    "projector.output_dim": 512,
    "encoder.spectral_norm": True,
}
OURS = {  # where the paper is silent or contradicts itself
    "method.temperature": 0.2,
    "schedule.warmup_epochs": 10.0,
    "encoder.feature_dim": 0,
    "encoder.bn_group": 0,
    "saib.enabled": True,
    "saib.num_blocks": 1,
    "saib.group_size": 32,
    "saib.inner_skip": True,
    "objective.kl.form": "closed",
    "objective.kl.stop_gradient": "query",
    "objective.entropy.estimator": "coding_rate",
    "method.symmetric": False,
    "method.queue_size": 0,
}
PROBE = {  # section 4.1, linear evaluation
    "seed": 42,
    "probe.batch_size": 512,
    "probe.learning_rate": 0.03,
    "probe.momentum": 0.9,
    "probe.weight_decay": 1e-5,
    "probe.num_epochs": 200,
    "probe.feature_norm": "layer_norm",
    "probe.augment.flip_prob": 0.5,
    "probe.augment.jitter_prob": 0.0,
    "probe.augment.gray_prob": 0.0,
    "probe.augment.blur_prob": 0.0,
}
SCALE = {  # image size, patch size, stem, encoder and epochs of each data set
    ("imagenet_r50", "100"): (224, 16, "imagenet", "resnet50", 100),
    ("imagenet_r50", "200"): (224, 16, "imagenet", "resnet50", 200),
    ("imagenet_r50", "400"): (224, 16, "imagenet", "resnet50", 400),
    ("imagenet_r50", "800"): (224, 16, "imagenet", "resnet50", 800),
    ("resnet18", "imagenet"): (224, 16, "imagenet", "resnet18", 300),
    ("resnet18", "stl10"): (96, 12, "imagenet", "resnet18", 1000),
    ("resnet18", "cifar10"): (32, 4, "cifar", "resnet18", 1000),
    ("resnet18", "cifar100"): (32, 4, "cifar", "resnet18", 1000),
}


@pytest.mark.parametrize("source", SCALE)
def test_pretraining_configs_state_the_papers_values(source):
    config = load(*source)
    assert {name: get(config, name) for name in PAPER} == PAPER
    assert {name: get(config, name) for name in OURS} == OURS
    names = ("data.image_size", "saib.patch_size", "encoder.stem", "encoder.name")
    assert tuple(get(config, name) for name in (*names, "train.num_epochs")) == SCALE[source]
    assert config.train.num_steps == 0


def test_linear_probe_states_the_papers_values():
    config = load("linear_probe")
    assert {name: get(config, name) for name in PROBE} == PROBE


@pytest.mark.parametrize("source", SCALE)
def test_augmentations_are_moco_v2s_at_large_and_simclrs_at_small_images(source):
    config = load(*source)
    small = config.data.image_size == 32
    assert config.augment.anchor == config.augment.query
    ops = config.augment.anchor
    # SimCLR's strength on CIFAR is one half of its ImageNet recipe, which is MoCo-v2's.
    assert (ops.brightness, ops.contrast, ops.saturation, ops.hue) == (0.4, 0.4, 0.4, 0.1)
    assert ops.crop_scale == ((0.08, 1.0) if small else (0.2, 1.0))
    assert ops.blur_prob == (0.0 if small else 0.5)
    probabilities = (ops.flip_prob, ops.jitter_prob, ops.gray_prob, ops.solarize_prob)
    assert probabilities == (0.5, 0.8, 0.2, 0.0)
