"""SAIB's Jacobian and the norms of the encoder's convolutions, measured on a checkpoint.

    python -m iecl_jax.main --config=configs/jacobian.py --config.checkpoint=WORKDIR

Prints log|det J|, the extreme singular values and the share of them below 1, and draws the
spectrum to jacobian.png. `:smoke` measures an untrained tiny network.
"""

import ml_collections

from configs import common
from configs.knn import evaluation_config


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    config = evaluation_config("jacobian", scale)
    config.jacobian = jacobian = ml_collections.ConfigDict()
    jacobian.num_groups = 4  # groups of query views, each with a Jacobian of its own
    # running: BN divides by its running statistics, constants, as in the diagnostics;
    # batch: by those of the group, as SAIB does in training where a batch is one group
    jacobian.statistics = "running"
    jacobian.exact_up_to = 1536  # dimensions of a group that get all their singular values
    jacobian.depth = 64  # Lanczos steps above that
    jacobian.num_probes = 8  # and random vectors a group
    if scale:
        config.pretrain.data.image_size = 8
        jacobian.num_groups = 2
    return config
