"""Weighted kNN accuracy of a pretrained encoder (Wu et al. 2018).

python -m iecl_jax.main --config=configs/knn.py --config.checkpoint=WORKDIR
"""

import ml_collections

from configs import common, imagenet_r50
from iecl_jax import config as config_lib


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    return evaluation_config("knn", scale)


def evaluation_config(job: str, scale: str) -> ml_collections.ConfigDict:
    """A job on a frozen encoder; at the scale of smoke on an untrained tiny one."""
    config = config_lib.new(job)
    if scale:
        config.pretrain = imagenet_r50.get_config("100,smoke")
    return config
