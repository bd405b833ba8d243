"""Every config loads, is possible, has no setting that nothing reads, and states the paper's."""

import ast
import importlib
import pathlib
import re
from typing import Any

import ml_collections
import pytest

from iecl_jax import config as config_lib
from iecl_jax.config import kinds
from iecl_jax.configs import augmentation_grid, imagenet_r50, methods, resnet18
from iecl_jax.configs.study import SETTINGS

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent
ENDS = ("", "+saib", "+terms", "+sn", "+saib+sn", "+terms+sn")
PLUGGED = ["ie_cl", *(name + end for name in methods.METHODS for end in ENDS)]
OPERATORS = augmentation_grid.OPERATORS
VARIANTS = {
    "imagenet_r50": (
        *imagenet_r50.EPOCHS,
        *(f"100,{name}" for name in methods.NAMES),
    ),
    "resnet18": (
        *resnet18.DATA_SETS,
        "cifar10,ie_cl",
        *(f"cifar10,{name}{end}" for name in methods.METHODS for end in ("", "+saib")),
        *(f"{data},{name}" for data in resnet18.DATA_SETS[1:] for name in methods.METHODS),
        "cifar10,simclr+saib+sn+blur",
    ),
    "ablation": ("baseline", "saib", "saib+kl", "full"),
    "saib_cascade": ("1", "2", "3"),
    "plug_and_play": ("moco_v2", *(word for word in PLUGGED if word != "moco_v2")),
    "augmentation_grid": (
        "crop,crop",
        *(f"{a},{b}" for a in OPERATORS for b in OPERATORS if (a, b) != ("crop", "crop")),
    ),
    "quickstart": ("digits",),
    "knn": ("checkpoint",),
    "linear": ("checkpoint",),
    "linear_probe": ("checkpoint",),
    "jacobian": ("checkpoint",),
    "export": ("checkpoint",),
    "evaluate": ("knn", *(name for name in kinds.names("evaluation") if name != "knn")),
    "finetune": ("checkpoint",),
    "voc_segmentation": ("checkpoint",),
    "voc_detection": ("checkpoint",),
    "study": tuple(SETTINGS),
}
AT_SMALL_SCALE = ("imagenet_r50", "resnet18", "ablation", "saib_cascade", "plug_and_play")
AT_SMALL_SCALE += ("augmentation_grid", "voc_segmentation", "voc_detection", "finetune")
ALL = [(name, variant) for name, variants in VARIANTS.items() for variant in variants]


def load(name: str, arg: str | None = None) -> ml_collections.ConfigDict:
    get_config = importlib.import_module(f"iecl_jax.configs.{name}").get_config
    return get_config() if arg is None else get_config(arg)


def get(config: ml_collections.ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def test_every_file_is_tested_here():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    others = {"__init__", "__main__", "common", "methods", "recipes", "tables"}
    assert files - others == set(VARIANTS)


@pytest.mark.parametrize("name, variant", ALL)
@pytest.mark.parametrize("scale", ["", "smoke", "small"])
def test_configs_load_and_are_possible(name, variant, scale):
    if scale == "small" and name not in AT_SMALL_SCALE:
        with pytest.raises(ValueError, match="small' is unknown"):
            load(name, f"{variant},small")
        return
    config = load(name, f"{variant},{scale}" if scale else variant)
    if config.job != "pretrain" and not scale:
        config.checkpoint = "x"
    config_lib.check(config, 1)
    config_lib.check(config_lib.from_json(config_lib.to_json(config)), 1)
    if config.job != "pretrain":
        if scale:
            config_lib.check_pretrain(config.pretrain, 1)
        return
    sizes = {"smoke": (256, 4), "small": (50_000, 1000)}
    images, steps = sizes.get(scale, (126_689, 10**6))
    if scale:
        assert config.train.num_steps == steps
        assert config.data.name == {"smoke": "generated", "small": "cifar10"}[scale]
        config_lib.check(config, 2)
    config_lib.check_length(
        config,
        num_images=50_000 if config.data.name.startswith("cifar") else images,
        steps_per_epoch=images // config.train.batch_size,
        total_steps=steps,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_an_empty_or_bare_smoke_argument_is_the_first_variant(name):
    first = VARIANTS[name][0]
    assert load(name) == load(name, first)
    assert load(name, "smoke") == load(name, f"{first},smoke") != load(name, first)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("arg", ["nothing", "nothing,smoke", "smoke,100,200"])
def test_unknown_variants_name_the_choices(name, arg):
    with pytest.raises(
        ValueError, match=rf"^config variant '{arg}' is unknown: .*use .+\.$"
    ) as caught:
        load(name, arg)
    words = {word for variant in VARIANTS[name] for word in re.split(r"[,+]", variant)}
    if name == "ablation":
        words = set(VARIANTS[name])
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    "name, arg, meant",
    [
        ("resnet18", "cifar10,byoll", "'byol'"),
        ("resnet18", "cifar10,byol+siab", "'saib'"),
        ("resnet18", "cifr10,byol", "'cifar10' or 'cifar100'"),
        ("resnet18", "cifar10,smok", "'smoke'"),
        ("plug_and_play", "simclear+saib,small", "'simclr'"),
        ("augmentation_grid", "saib,colour", "'color'"),
        ("ablation", "saib+kll", "'saib+kl'"),
        ("evaluate", "linear-probe", "'linear_probe'"),
        ("study", "row7-ancor", "'row7-anchor'"),
        ("imagenet_r50", "100,smal", "'small'"),
    ],
)
def test_a_misspelt_word_of_a_variant_gets_the_one_that_is_meant(name, arg, meant):
    with pytest.raises(ValueError, match="is unknown") as caught:
        load(name, arg)
    assert f"did you mean {meant}" in str(caught.value)


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
    leaves = {leaf for pair in ALL for leaf in config_lib.leaves(load(*pair))}
    assert len(leaves) > 100
    words = words_that_are_read()
    unread = sorted(leaf for leaf in leaves if leaf.split(".")[-1] not in words)
    assert not unread, f"nothing in iecl_jax reads {', '.join(unread)}"


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


def test_the_methods_of_table_1_have_the_batch_sizes_that_it_prints():
    printed = {"simclr": 4096, "moco_v2": 256, "simsiam": 256, "nnclr": 1024, "ie_cl": 256}
    printed |= {"swav": 4096, "all4one": 1024}
    got = {name: load("imagenet_r50", f"100,{name}").train.batch_size for name in printed}
    assert got == printed


def test_swav_of_table_1_has_its_authors_optimizer_and_two_views():
    config = load("imagenet_r50", "100,swav")
    assert config.optimizer.learning_rate * config.train.batch_size / 256 == pytest.approx(4.8)
    assert config.schedule.end_factor * 4.8 == pytest.approx(0.0048)
    assert config.optimizer.weight_decay == 1e-6
    assert tuple(config.augment.views) == ("anchor", "query")
    assert load("imagenet_r50", "100,swav,small").optimizer.name == "lars"


@pytest.mark.parametrize("scale", ["", ",smoke", ",small"])
@pytest.mark.parametrize("source", ["resnet18:cifar10,", "plug_and_play:", "imagenet_r50:100,"])
@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_blur_as_a_word_blurs_half_of_each_view_and_changes_nothing_else(source, method, scale):
    file, variant = source.split(":")
    plain, blurred = (load(file, f"{variant}{method}{end}{scale}") for end in ("", "+blur"))
    for view in plain.augment.views:
        plain.augment[view].blur.prob = 0.5
    assert config_lib.leaves(plain) == config_lib.leaves(blurred)


def test_small_views_have_no_blur_unless_a_word_asks_for_it():
    for name in methods.METHODS:
        augment = load("resnet18", f"cifar10,{name}").augment
        assert not any(augment[view].blur.prob for view in augment.views), name


PROBE = {  # section 4.1, linear evaluation
    "seed": 42,
    "linear_probe.batch_size": 512,
    "linear_probe.learning_rate": 0.03,
    "linear_probe.momentum": 0.9,
    "linear_probe.weight_decay": 1e-5,
    "linear_probe.num_epochs": 200,
    "linear_probe.feature_norm": "layer_norm",
    "linear_probe.augment.flip.prob": 0.5,
    "linear_probe.augment.jitter.prob": 0.0,
    "linear_probe.augment.gray.prob": 0.0,
    "linear_probe.augment.blur.prob": 0.0,
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
    view = config.augment.anchor
    # SimCLR's strength on CIFAR is one half of its ImageNet recipe, which is MoCo-v2's.
    jitter = view.jitter
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    assert strengths == (0.4, 0.4, 0.4, 0.1)
    assert view.crop.scale == ((0.08, 1.0) if small else (0.2, 1.0))
    assert view.blur.prob == (0.0 if small else 0.5)
    probabilities = (view.flip.prob, jitter.prob, view.gray.prob, view.solarize.prob)
    assert probabilities == (0.5, 0.8, 0.2, 0.0)
