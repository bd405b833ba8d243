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
    config.encoder.update(tiny_resnet.ENCODER | {"spectral_norm": True})
    return config


def plain_views(config):
    """The config with noise as its only operator: a short program, which compiles soon."""
    for view in (config.augment.anchor, config.augment.query):
        view.crop.update({"scale": (1.0, 1.0), "ratio": (1.0, 1.0)})
        for name in view.operators[1:]:
            view[name].prob = 1.0 if name == "noise" else 0.0
    return config
