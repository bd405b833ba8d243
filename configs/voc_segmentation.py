"""Segmentation on PASCAL VOC 2012 with DeepLabv3 (Table 2b), from the encoder of a checkpoint.

    python -m iecl_jax.main --config=configs/voc_segmentation.py --config.data.dir=FOLDER \
        --config.checkpoint=WORKDIR

FOLDER is VOCdevkit/VOC2012, or any folder in that layout; docs/voc.md describes it, the recipe and
the paper's own. Without a checkpoint, the encoder is an untrained, plain ResNet-50. `:small` trains
a narrow ResNet-18 on images of 128 px, in minutes on a CPU. `:smoke` takes a few steps on generated
images.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config, scale = evaluate.training_config("segmentation", arg)
    job = config.segmentation
    if scale:
        job.update({"batch_size": 8, "image_size": 128, "head_channels": 64})
    if scale == "small":
        job.update({"num_steps": 1500, "eval_every_steps": 500, "save_every_steps": 250})
        job.update({"scale": (0.75, 1.5), "most_of_a_class": 1.0})
        job.optimizer.update({"name": "adam", "learning_rate": 0.001, "weight_decay": 1e-4})
    if scale == "smoke":
        job.update({"batch_size": 4, "image_size": 64})
    return config
