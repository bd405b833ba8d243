"""Weighted kNN accuracy of a pretrained encoder (Wu et al. 2018).

python -m iecl_jax.main --config=configs/knn.py --config.checkpoint=WORKDIR
"""

import ml_collections

from configs import common, imagenet_r50


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    config = evaluation_config("knn", scale)
    config.knn = knn = ml_collections.ConfigDict()
    knn.k = 0  # neighbours; 0 = as during pretraining
    knn.temperature = 0.0  # weights are exp(cosine / temperature); 0 = as during pretraining
    return config


def evaluation_config(job: str, scale: str) -> ml_collections.ConfigDict:
    """What the jobs on a frozen encoder share."""
    config = ml_collections.ConfigDict()
    config.job = job
    config.seed = 42
    config.checkpoint = ""  # a pretraining run's workdir, or one of its checkpoints/STEP
    config.best = False  # of a workdir, the checkpoint of best kNN instead of the newest
    config.data = data = ml_collections.ConfigDict()
    data.dir = ""  # where the data lie; "" = where the pretraining run found them
    data.cache = "none"  # none | host | device
    if scale:  # an untrained tiny encoder
        config.pretrain = imagenet_r50.get_config("100,smoke")
    return config
