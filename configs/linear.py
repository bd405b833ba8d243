"""Trains a grid of linear classifiers on fixed features, and chooses the rate on held-out images.

    python -m iecl_jax.main --config=configs/linear.py --config.checkpoint=WORKDIR

The tables use it, since a fixed rate misjudges methods; configs/linear_probe.py is the evaluation
of the paper, with a fixed rate. `:smoke` evaluates an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config, scale = evaluate.checkpoint_config("linear", arg)
    if scale:
        config.linear.update({"batch_size": 32, "num_epochs": 2})
    return config
