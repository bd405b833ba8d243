"""Table 4 of the paper: IE-CL with several SAIBs in a row, on ImageNet with ResNet-18.

    python -m iecl_jax.main --config=configs/saib_cascade.py:2

The argument is the number of SAIBs: 1, 2 or 3.

Published linear top-1 (not measured here): 59.41, 58.62 and 58.71 %.
"""

import ml_collections

from iecl_jax.configs import common, resnet18


def get_config(arg: str = "1") -> ml_collections.ConfigDict:
    number, scale = common.parse_arg(
        arg, default="1", choices=["1", "2", "3"], scales=common.SCALES
    )
    config = resnet18.get_config("imagenet")
    config.saib.num_blocks = int(number)
    return common.at_scale(config, scale)
