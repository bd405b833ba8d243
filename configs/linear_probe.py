"""Linear evaluation of a frozen encoder, section 4.1 of the paper.

    python -m iecl_jax.main --config=configs/linear_probe.py --config.checkpoint=WORKDIR

With --config.probe.cached=True features are computed once and a grid of learning rates is trained
on them at once: minutes instead of hours, without augmentation.
"""

import ml_collections

from configs import common, knn


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    config = knn.evaluation_config("linear_probe", scale)
    config.probe = probe = ml_collections.ConfigDict()
    probe.batch_size = 512
    probe.num_epochs = 200
    probe.learning_rate = 0.03  # at this batch size, not scaled; cosine to 0
    probe.momentum = 0.9
    probe.weight_decay = 1e-5
    probe.feature_norm = "layer_norm"  # layer_norm without parameters | none
    probe.augment = common.crop_and_flip()
    probe.cached = False
    probe.learning_rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # the grid of `cached`
    probe.holdout = 0.1  # share of train that chooses from the grid
    if scale:
        probe.update({"batch_size": 32, "num_epochs": 2})
    return config
