"""Runs any evaluation on a checkpoint: a file of iecl_jax/evals, or the path of any other file.

    python -m iecl_jax.main --config=configs/evaluate.py:NAME --config.checkpoint=WORKDIR

`:NAME,smoke` evaluates an untrained tiny network.
"""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.config import kinds
from iecl_jax.configs import common, imagenet_r50

SCALES = ("smoke",)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    words, scale = common.split_scale(arg, SCALES)
    name, *others = words or ["knn"]
    known = kinds.names("evaluation")
    if others or not (name in known or name.endswith(".py")):
        wanted = f"one of {', '.join(known)} or the path of a .py file like them"
        raise common.unknown_variant(arg, wanted, SCALES, known)
    return evaluation_config(name, scale)


def evaluation_config(job: str, scale: str) -> ml_collections.ConfigDict:
    """Returns the config of an evaluation; at scale "smoke", of an untrained tiny network."""
    config = config_lib.new(job)
    if scale:
        config.pretrain = imagenet_r50.get_config("100,smoke")
    return config


def checkpoint_config(job: str, arg: str) -> tuple[ml_collections.ConfigDict, str]:
    """Returns (config, scale) of a job on a checkpoint, and an argument: "", or "smoke"."""
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    return evaluation_config(job, scale), scale


def training_config(job: str, arg: str) -> tuple[ml_collections.ConfigDict, str]:
    """Returns (config, scale) of a job that trains an encoder further, and an argument.

    Without a checkpoint the encoder is untrained: at a scale, a narrow ResNet-18 for large images.
    """
    _, scale = common.parse_arg(
        arg, default="checkpoint", choices=["checkpoint"], scales=common.SCALES
    )
    config = config_lib.new(job)
    config.pretrain = imagenet_r50.get_config(f"100,simclr,{scale}" if scale else "100,simclr")
    if scale:
        config.pretrain.encoder.update({"name": "resnet18", "stem": "imagenet", "width": 16})
        config.data.num_threads = 2
    if scale == "smoke":
        config.data.generated = True
        config[job].update({"num_steps": 4, "eval_every_steps": 2, "save_every_steps": 2})
        config[job].log_every_steps = 2
    return config, scale
