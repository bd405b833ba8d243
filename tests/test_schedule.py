"""The learning rate over the run against its definition."""

import math

import jax
import jax.numpy as jnp
import pytest

from iecl_jax.configs import imagenet_r50
from iecl_jax.train import optim

pytestmark = pytest.mark.quick


def _config():
    config = imagenet_r50.get_config("100,smoke")
    config.optimizer.learning_rate, config.train.batch_size = 0.3, 512
    return config


@pytest.mark.parametrize("end", [0.0, 0.001, 0.25])
@pytest.mark.parametrize("warmup_epochs, warmup", [(2.0, 10), (0.5, 2), (0.0, 0)])
def test_warmup_then_cosine(warmup_epochs, warmup, end):
    config = _config()
    config.schedule.end_factor = end
    config.schedule.warmup_epochs = warmup_epochs
    schedule = jax.jit(optim.learning_rate(config, total_steps=40, steps_per_epoch=5))
    peak = 0.3 * 512 / 256
    for step in (0, 1, 2, 9, 10, 11, 25, 39, 40, 45):
        if step < warmup:
            expected = peak * step / warmup
        else:
            progress = min((step - warmup) / (40 - warmup), 1)
            expected = peak * (end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2)
        got = float(schedule(jnp.int32(step)))
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-7), step


@pytest.mark.parametrize("warmup_epochs, warmup", [(2.0, 10), (0.0, 0)])
@pytest.mark.parametrize("drop_epochs", [(3.0, 1.0), (1.0, 1.0), ()])
def test_warmup_then_drops(warmup_epochs, warmup, drop_epochs):
    config = _config()
    changes = {"decay": "drops", "drop_epochs": drop_epochs, "drop_factor": 0.2}
    config.schedule.update({"warmup_epochs": warmup_epochs} | changes)
    schedule = jax.jit(optim.learning_rate(config, total_steps=40, steps_per_epoch=5))
    for step in range(45):
        passed = sum(step >= 40 - 5 * epochs for epochs in drop_epochs)
        expected = 0.6 * 0.2**passed * (min(step / warmup, 1) if warmup else 1)
        assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=1e-6), step
    assert schedule(0).dtype == jnp.float32
