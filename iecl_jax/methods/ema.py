"""Exponential moving average of parameters, the momentum encoder's update (Algorithm 1)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

SCHEDULES = ("constant", "cosine")


def coefficient(
    ema: ml_collections.ConfigDict, total_steps: int
) -> Callable[[jax.Array], jax.Array]:
    """Step -> momentum coefficient m, float32: constant `start`, or cosine from `start` to `end`
    (Grill et al. 2020, where end = 1)."""
    if ema.schedule == "constant":
        return lambda step: jnp.float32(ema.start)

    def cosine(step: jax.Array) -> jax.Array:
        progress = step.astype(jnp.float32) / total_steps
        return ema.end - (ema.end - ema.start) * (jnp.cos(jnp.pi * progress) + 1) / 2

    return cosine


def update(average, new, m: jax.Array):
    """m * average + (1 - m) * new, leaf by leaf."""
    return jax.tree.map(lambda a, b: m * a + (1 - m) * b, average, new)
