"""Measures the weighted kNN accuracy of a pretrained encoder (Wu et al. 2018).

    python -m iecl_jax.main --config=configs/knn.py --config.checkpoint=WORKDIR

`:smoke` measures an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import common, evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    return evaluate.evaluation_config("knn", scale)
