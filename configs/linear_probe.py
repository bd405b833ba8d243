"""Runs the linear evaluation of a frozen encoder (section 4.1 of the paper).

    python -m iecl_jax.main --config=configs/linear_probe.py --config.checkpoint=WORKDIR

With --config.linear_probe.cached=True, features of unaugmented images are computed once, and
classifiers for a grid of learning rates are trained on them together. That takes minutes instead of
hours. `:smoke` evaluates an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    config, scale = evaluate.checkpoint_config("linear_probe", arg)
    if scale:
        config.linear_probe.update({"batch_size": 32, "num_epochs": 2})
    return config
