"""IE-CL on ImageNet with ResNet-50: Table 1 of the paper.

    python -m iecl_jax.main --config=configs/imagenet_r50.py:100

The argument is the number of epochs: 100, 200, 400 or 800. Published linear top-1 (not measured
here): 68.3, 70.9, 71.7 and 73.2 %. `:100,smoke` runs a few steps of a tiny version on generated
images, `:100,small` a version for two CPU cores on CIFAR-10. Every other pretraining config starts
from this one. All its values are the defaults of iecl_jax/config/pretrain.py, which is the list of
all settings; `--print_config` prints those of any config.
"""

import ml_collections

from configs import common
from iecl_jax import config as config_lib

EPOCHS = (100, 200, 400, 800)


def get_config(arg: str = "100") -> ml_collections.ConfigDict:
    variant, scale = common.parse_arg(
        arg, default="100", choices=[str(n) for n in EPOCHS], scales=common.SCALES
    )
    config = config_lib.new("pretrain")
    config.train.num_epochs = int(variant)
    return common.at_scale(config, scale)
