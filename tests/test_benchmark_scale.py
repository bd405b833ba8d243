"""The estimate of what a table costs: its formula, on a worked example, and its rows."""

import jax
import numpy as np
import pytest
import tiny_network

from iecl_jax.tools.benchmark import program, scale

COST = scale.Cost(flops=8e12, gradient=400_000_000, checkpoint=10**9)
MACHINE = scale.Machine("4 x some", 4, memory=scale.REFERENCE_MEMORY / 2, link=1e11)


@pytest.fixture(autouse=True)
def _speed(monkeypatch):
    monkeypatch.setattr(scale, "reference_speed", lambda side: 4e12)


def test_seconds_of_a_step():
    """8 TFLOP on 4 devices of 2 TFLOP/s, and 1.5 times 400 MB over 100 GB/s."""
    assert scale.seconds_of_step(COST, 224, MACHINE) == pytest.approx(1.0 + 0.006)


def test_a_machine_that_does_not_fit_has_no_number(monkeypatch):
    monkeypatch.setattr(scale, "MACHINES", (MACHINE, MACHINE._replace(devices=7)))
    config = tiny_network.get_config()
    config.train.num_steps = 3600
    cells = scale.row("tiny", config, COST)
    assert cells[-2:] == ["1.0 (4)", "does not fit"]
    assert len(cells) == len(scale.titles())


def test_the_state_and_the_gradient_are_counted():
    state = {"a": jax.ShapeDtypeStruct((3, 5), np.float32), "b": np.zeros(4, np.int8)}
    assert program.num_bytes(state) == 64
