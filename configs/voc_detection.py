"""Detection on PASCAL VOC 2012 with Faster R-CNN (Table 2b), from the encoder of a checkpoint.

    python -m iecl_jax.main --config=configs/voc_detection.py --config.data.dir=FOLDER \
        --config.checkpoint=WORKDIR

FOLDER is VOCdevkit/VOC2012, or any folder in that layout; docs/voc.md describes it, the recipe and
the paper's own. Without a checkpoint, the encoder is an untrained, plain ResNet-50. `:small` trains
a narrow ResNet-18 on images of 192 px, in minutes on a CPU. `:smoke` takes a few steps on generated
images.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config, scale = evaluate.training_config("detection", arg)
    job = config.detection
    if scale:
        job.update({"batch_size": 4, "image_size": 192, "fpn_width": 64, "max_objects": 40})
        job.anchor_sizes = (16.0, 32.0, 64.0, 96.0, 160.0)
        job.rpn.update({"before_nms_train": 200, "after_nms_train": 200, "sampled": 128})
        job.rpn.update({"before_nms_test": 200, "after_nms_test": 200})
        job.roi.update({"hidden_dim": 256, "sampled": 64})
    if scale == "small":
        job.update({"num_steps": 1200, "eval_every_steps": 400, "save_every_steps": 200})
        job.batch_size = 8
        job.optimizer.update({"name": "adam", "learning_rate": 0.001})
    if scale == "smoke":
        job.image_size = 64
        job.rpn.update({"before_nms_train": 50, "after_nms_train": 50, "sampled": 32})
        job.rpn.update({"before_nms_test": 50, "after_nms_test": 50})
        job.roi.update({"hidden_dim": 32, "sampled": 16})
        job.schedule.warmup_steps = 2
    return config
