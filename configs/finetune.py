"""Trains the encoder of a checkpoint further, with a linear classifier, on labelled images.

    python -m iecl_jax.main --config=configs/finetune.py --config.checkpoint=WORKDIR

`--config.finetune.label_share=0.01` uses 1 % of the labels. docs/finetuning.md has the recipes of
the literature. Without a checkpoint, the encoder is an untrained ResNet-50. `:small` trains a tiny
one on CIFAR-10, in minutes on a CPU. `:smoke` takes a few steps on generated images.
"""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.configs import common, imagenet_r50


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(
        arg, default="checkpoint", choices=["checkpoint"], scales=common.SCALES
    )
    config = config_lib.new("finetune")
    config.pretrain = imagenet_r50.get_config(f"100,simclr,{scale}" if scale else "100,simclr")
    job = config.finetune
    if scale == "small":
        job.update({"batch_size": 128, "num_epochs": 3, "log_every_steps": 50})
    if scale == "smoke":
        job.update({"batch_size": 8, "num_steps": 3, "log_every_steps": 1, "save_every_steps": 2})
        job.update({"encoder_rates": (0.01, 0.1), "head_rates": (0.1,)})
    return config
