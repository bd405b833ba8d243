"""Every method with SAIB keeps the contract of tests/conformance.py, also under bfloat16."""

import jax
import numpy as np
from conformance import *  # noqa: F403
from conformance import cases, make_case, tiny_config

case = cases(saib=True)


def test_a_bfloat16_step_stays_finite(case):
    name = case.config.method.name
    half = make_case(tiny_config(name, saib=True, **{"train.precision": "bfloat16"}), steps=2)
    states, metrics = half.history[-1]
    assert all(np.isfinite(value) for value in metrics.values()), metrics
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
