"""IE-CL with all its parts and one block of a ResNet.

For tests that need SAIB, BN, spectral norm or a momentum network; for others there is tiny_run.py.
"""

import tiny_resnet

from iecl_jax.configs import imagenet_r50


def get_config():
    return shrink(imagenet_r50.get_config("100,smoke"))


def shrink(config):
    """The config with the smallest encoder, on the smallest images that it takes."""
    config.data.image_size = 8
    for name in config.augment.views[2:]:
        config.augment[name].size = 4
    config.encoder.update(tiny_resnet.ENCODER | {"spectral_norm": True})
    return config


def plain_views(config):
    """The config with noise as its only operator: a short program, which compiles soon."""
    for name in config.augment.views:
        view = config.augment[name]
        view.crop.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
        for operator in view.operators[1:]:
            view[operator].prob = 1.0 if operator == "noise" else 0.0
    return config
