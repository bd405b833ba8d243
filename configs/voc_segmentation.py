"""Segmentation on PASCAL VOC 2012 with DeepLabv3 (Table 2b), from the encoder of a checkpoint.

    python -m iecl_jax.main --config=configs/voc_segmentation.py --config.data.dir=FOLDER \
        --config.checkpoint=WORKDIR

FOLDER is VOCdevkit/VOC2012, or any folder in that layout; docs/voc.md describes it, the recipe and
the paper's own. Without a checkpoint, the encoder is an untrained, plain ResNet-50. `:small` trains
a narrow ResNet-18 on images of 128 px, in minutes on a CPU. `:smoke` takes a few steps on generated
images.
"""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.configs import common, imagenet_r50


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(
        arg, default="checkpoint", choices=["checkpoint"], scales=common.SCALES
    )
    config = config_lib.new("segmentation")
    config.pretrain = imagenet_r50.get_config(f"100,simclr,{scale}" if scale else "100,simclr")
    job = config.segmentation
    if scale:
        config.pretrain.encoder.update({"name": "resnet18", "stem": "imagenet", "width": 16})
        job.update({"batch_size": 8, "image_size": 128, "head_channels": 64})
        config.data.num_threads = 2
    if scale == "small":
        job.update({"num_steps": 500, "eval_every_steps": 250, "save_every_steps": 125})
        job.update({"scale": (0.75, 1.5), "most_of_a_class": 1.0})
        job.optimizer.update({"name": "adam", "learning_rate": 0.001, "weight_decay": 1e-4})
    if scale == "smoke":
        config.data.generated = True
        job.update({"num_steps": 4, "eval_every_steps": 2, "save_every_steps": 2})
        job.update({"batch_size": 4, "image_size": 64, "log_every_steps": 2})
    return config
