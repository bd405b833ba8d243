"""Measures SAIB's Jacobian and the norms of the encoder's convolutions on a checkpoint.

    python -m iecl_jax.main --config=configs/jacobian.py --config.checkpoint=WORKDIR

It prints log|det J|, the extreme singular values and the share of singular values below 1, and
draws their distribution to jacobian.png. `:smoke` measures an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config, scale = evaluate.checkpoint_config("jacobian", arg)
    if scale:
        config.pretrain.data.image_size = 8
        config.jacobian.num_groups = 2
    return config
