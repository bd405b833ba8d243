"""A setting that the command changes and nothing reads is named, with the way out."""

import ast
import re

import pytest

from iecl_jax import config as config_lib
from iecl_jax.config import idle

pytestmark = pytest.mark.quick

BYOL, DIGITS = "configs/resnet18.py:cifar10,byol", "configs/quickstart.py"


def told(flag, *arguments):
    loaded = config_lib.parse(flag, [f"--config.{each}" for each in arguments])
    return idle.sentences(loaded.config, loaded.changed)


@pytest.mark.parametrize(
    "flag, arguments, since",
    [
        ("configs/resnet18.py:cifar10", ["optimizer.trust_clip=True"], "optimizer.name='sgd'"),
        (
            "configs/resnet18.py:cifar10",
            ["optimizer.trust_coefficient=0.1"],
            "optimizer.name='sgd'",
        ),
        (BYOL, ["saib.num_blocks=2"], "saib.enabled=False"),
        (BYOL, ["objective.saib_decay=0.5"], "saib.enabled=False"),
        (BYOL, ["objective.kl.form=eq16"], "objective.kl.weight=0.0"),
        (DIGITS, ["objective.entropy.neighbors=2"], "objective.entropy.estimator='coding_rate'"),
        (DIGITS, ["method.enqueue=both"], "method.queue_size=0"),
        (DIGITS, ["method.smooth.k=3"], "method.smooth.mass=0.0"),
        (
            "configs/evaluate.py:few_labels",
            ["few_labels.draws=3", "few_labels.list=mine.txt"],
            "few_labels.list='mine.txt'",
        ),
        (DIGITS, ["method.ema.end=0.9"], "method.ema.schedule='constant'"),
        (
            DIGITS,
            ["projector.output_affine=1", "projector.output_bn=0"],
            "projector.output_bn=False",
        ),
        (DIGITS, ["projector.hidden_dim=9", "projector.num_layers=1"], "projector.num_layers=1"),
        (DIGITS, ["train.num_epochs=9", "train.num_steps=5"], "train.num_steps=5"),
        (DIGITS, ["augment.query.blur.sigma=(0.1,1.0)"], "augment.query.blur.prob=0.0"),
        (DIGITS, ["eval.linear.momentum=0.5"], "eval.linear.num_epochs=0"),
        (DIGITS, ["log.wandb_project=x"], "log.wandb='off'"),
        (DIGITS, ["schedule.drop_factor=0.5"], "schedule.decay='cosine'"),
        (DIGITS, ["schedule.end_factor=0.5", "schedule.decay=drops"], "schedule.decay='drops'"),
        ("configs/linear_probe.py", ["linear_probe.holdout=0.2"], "linear_probe.cached=False"),
    ],
)
def test_a_changed_setting_that_nothing_reads_is_named(flag, arguments, since):
    (sentence,) = told(flag, *arguments)
    assert sentence.startswith(arguments[0].partition("=")[0] + "=")
    assert f" has no effect, since {since}: take it out, or set " in sentence


def test_what_is_read_or_was_not_changed_is_not_named():
    assert not told(BYOL)  # has LARS's, and SAIB's settings unread
    assert not told(BYOL, "optimizer.name=sgd", "seed=3")
    assert not told("configs/resnet18.py:cifar10", "optimizer.trust_clip=1", "optimizer.name=lars")
    assert not told(DIGITS, "saib.num_blocks=2", "objective.entropy.epsilon=0.1")
    assert not told(DIGITS, "augment.query.rotate.degrees=9", "train.num_epochs=9")


def test_each_way_out_is_one():
    others = ["configs/resnet18.py:cifar10,swav", "configs/linear_probe.py"]
    others += ["configs/voc_segmentation.py", "configs/voc_detection.py"]
    others += ["configs/evaluate.py:few_labels", "configs/finetune.py"]
    configs = [config_lib.load(flag) for flag in (BYOL, DIGITS, *others)]
    keys = [name for config in configs for name in config_lib.leaves(config)]
    for reader in idle.READERS:
        assert any(re.fullmatch(reader.settings, name) for name in keys), reader.settings
        value = "x" if reader.wanted == "FOLDER" else ast.literal_eval(reader.wanted)
        assert reader.reads(value), reader.needs
