"""IE-CL on the 1,797 handwritten digits of scikit-learn: a few minutes on a laptop's CPU.

python -m iecl_jax.main --config=configs/quickstart.py
"""

import ml_collections

from iecl_jax.configs import common, imagenet_r50


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="digits", choices=["digits"])
    config = imagenet_r50.get_config()
    config.data.update({"name": "digits", "image_size": 16, "num_threads": 2})
    config.train.update({"batch_size": 128, "num_epochs": 40, "log_every_steps": 50})
    config.encoder.update({"name": "resnet10", "stem": "cifar", "width": 16})
    config.projector.update({"hidden_dim": 256, "output_dim": 64})
    config.saib.update({"group_size": 32, "patch_size": 4})
    config.schedule.warmup_epochs = 5.0
    # A digit has no colour, and its mirror image is no digit. So the views only get mild crops,
    # rotations, brightness and contrast.
    view = common.view(crop_scale=(0.7, 1.0), jitter=(0.4, 0.4, 0.0, 0.0), blur_prob=0.0)
    view.flip.prob = view.gray.prob = 0.0
    view.rotate.update({"prob": 0.8, "degrees": 15.0})
    config.augment = common.same_for_both(view)
    config.eval.every_epochs, config.eval.knn.k = 20, 20
    config.eval.comparison.labels_per_class = 10
    config.checkpoint.every_steps = 200
    return common.at_scale(config, scale)
