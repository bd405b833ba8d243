"""IE-CL with one, two and three SAIBs in a row: Table 4 of the paper, ImageNet with ResNet-18.

    python -m iecl_jax.main --config=configs/saib_cascade.py:2

Published linear top-1 (not measured here) with 1, 2 and 3: 59.41, 58.62 and 58.71 %.
"""

import ml_collections

from configs import common, resnet18


def get_config(arg: str = "1") -> ml_collections.ConfigDict:
    number, scale = common.parse_arg(
        arg, default="1", choices=["1", "2", "3"], scales=common.SCALES
    )
    config = resnet18.get_config("imagenet")
    config.saib.num_blocks = int(number)
    return common.at_scale(config, scale)
