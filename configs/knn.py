"""Measures the weighted kNN accuracy of a pretrained encoder (Wu et al. 2018).

    python -m iecl_jax.main --config=configs/knn.py --config.checkpoint=WORKDIR

`:smoke` measures an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    return evaluate.checkpoint_config("knn", arg)[0]
