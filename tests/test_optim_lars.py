"""LARS with its clip as solo-learn defines it, over a whole schedule, in float64 NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iecl_jax.configs import imagenet_r50
from iecl_jax.train import optim


@pytest.mark.parametrize("name, seed", [("lars", 1), ("lars", 2), ("larc", 3)])
def test_ten_steps_of_clipped_lars_as_in_solo_learn(name, seed):
    """Random leaves of all sizes, over a warm-up to a rate that caps some and not others.

    solo-learn's `LARS` with `clip_lr`: eta 0.02, eps 1e-8, momentum 0.9; leaves of one axis get
    plain SGD without decay. The tiny leaf is where eps counts.
    """
    rng = np.random.default_rng(seed)
    sizes = {"small": 1e-7, "plain": 1.0, "large": 1e3}
    shapes = {"kernel": (3, 4), "bias": (5,)}
    draw = {
        (size, leaf): scale * rng.normal(size=shape)
        for size, scale in sizes.items()
        for leaf, shape in shapes.items()
    }
    expected = {path: np.float64(np.float32(value)) for path, value in draw.items()}
    gradients = [
        {path: np.float32(10 ** rng.uniform(-2, 1) * 0.1 * value) for path, value in draw.items()}
        for _ in range(10)
    ]
    settings = {"learning_rate": 0.4, "weight_decay": 1e-2, "momentum": 0.9}
    settings |= {"name": name, "trust_coefficient": 0.02, "trust_clip": True}
    config = imagenet_r50.get_config("100,smoke")
    config.optimizer.update(settings)
    config.train.batch_size = 256
    config.schedule.warmup_epochs = 2.0
    schedule = optim.learning_rate(config, total_steps=10, steps_per_epoch=2)

    def tree(leaves):
        online = {size: {leaf: leaves[size, leaf] for leaf in shapes} for size in sizes}
        return {"online": {"encoder": jax.tree.map(jnp.float32, online)}}

    tx, params = optim.make(config, schedule), tree(expected)
    state, buffers, capped = tx.init(params), dict.fromkeys(expected, 0.0), set()
    for step, drawn in enumerate(gradients):
        updates, state = jax.jit(tx.update)(tree(drawn), state, params)
        params = optax.apply_updates(params, updates)
        rate = 0.4 * (step / 4 if step < 4 else (1 + math.cos(math.pi * (step - 4) / 6)) / 2)
        for path, gradient in drawn.items():
            w, g = expected[path], np.float64(gradient)
            if w.ndim > 1:
                norm = math.sqrt((w**2).sum())
                trust = 0.02 * norm / (math.sqrt((g**2).sum()) + 1e-2 * norm + 1e-8)
                factor = min(trust / rate, 1) if rate else 1
                capped.add(factor == 1)
                g = factor * (g + 1e-2 * w)
            buffers[path] = 0.9 * buffers[path] + g
            expected[path] = w - rate * buffers[path]
    assert capped == {True, False}
    for (size, leaf), value in expected.items():
        got = params["online"]["encoder"][size][leaf]
        np.testing.assert_allclose(got, value, rtol=1e-4, atol=1e-5 * sizes[size], err_msg=size)
