"""Table 1 of the paper: IE-CL on ImageNet with ResNet-50. The base of all pretraining configs.

    python -m iecl_jax.main --config=configs/imagenet_r50.py:100

The argument is the number of epochs: 100, 200, 400 or 800. `:100,smoke` takes a few steps of a tiny
network on generated images; `:100,small` is a version on CIFAR-10 for two CPU cores.

All values are the defaults in iecl_jax/config/pretrain.py, which lists all settings;
`--print_config` prints those of any config. Every other pretraining config starts from this one.

Published linear top-1 (not measured here): 68.3, 70.9, 71.7 and 73.2 %.
"""

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.configs import common

EPOCHS = (100, 200, 400, 800)


def get_config(arg: str = "100") -> ml_collections.ConfigDict:
    variant, scale = common.parse_arg(
        arg, default="100", choices=[str(n) for n in EPOCHS], scales=common.SCALES
    )
    config = config_lib.new("pretrain")
    config.train.num_epochs = int(variant)
    return common.at_scale(config, scale)
