"""Table 5 of the paper: SAIB plugged into other methods, on ImageNet-100.

    python -m iecl_jax.main --config=configs/plug_and_play.py:byol+saib

The argument is METHOD[+saib][+sn][+crops][+blur] with a METHOD of configs/methods.py. METHOD+terms
has the entropy and KL terms of METHOD+saib without SAIB. The paper trains 200 epochs at batch 256.
It does not name the backbone; this config uses ResNet-18.

Published linear top-1 (not measured here), without and with SAIB: moco_v2 66.29 and 67.54 %, byol
67.95 and 68.76 %, simclr 63.34 and 64.02 %, simsiam 66.25 and 66.97 %.
"""

import ml_collections

from iecl_jax.configs import common, methods, resnet18

SCALES = common.SCALES


def get_config(arg: str = "moco_v2") -> ml_collections.ConfigDict:
    words, scale = common.split_scale(arg, SCALES)
    words = words or ["moco_v2"]
    if len(words) > 1 or methods.parse(words[0]) is None:
        raise common.unknown_variant(arg, methods.WANTED, SCALES, methods.WORDS)
    config = resnet18.get_config("imagenet")
    config.data.name = "imagenet100"
    config.train.num_epochs = 200
    return methods.use(config, words[0], scale)
