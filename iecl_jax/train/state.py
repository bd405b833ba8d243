"""What a training run carries from step to step."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale

from iecl_jax.methods import Method


@flax.struct.dataclass
class TrainState:
    """Equal on all devices.

    Attributes:
      step: int32 scalar, the number of steps taken.
      params: what the optimizer moves: "online", "saib" and "online_probe" subtrees.
      method_state: what moves otherwise (see `methods.Method`).
      opt_state: of optax.
      dynamic_scale: loss scale of float16, else None.
    """

    step: jax.Array
    params: Any
    method_state: Any
    opt_state: Any
    dynamic_scale: DynamicScale | None = None


def create(
    key: jax.Array,
    *,
    method: Method,
    tx: optax.GradientTransformation,
    view_shape: tuple[int, ...],
    num_classes: int,
    dynamic_scale: bool,
) -> TrainState:
    """A new state; one compilation.

    Args:
      key: typed PRNG key.
      view_shape: (b, S, S, 3) with b a multiple of SAIB's group.
      num_classes: of the online probe; 0 leaves the probe out.
      dynamic_scale: whether to scale the loss (float16).
    """

    @jax.jit
    def init(key):
        params, method_state = method.init(key, [jnp.zeros(view_shape)] * 2)
        if num_classes:
            pooled = jax.eval_shape(method.encode, params, method_state, jnp.zeros(view_shape))[
                "pooled"
            ]
            params["online_probe"] = {
                "kernel": jnp.zeros((pooled.shape[-1], num_classes)),
                "bias": jnp.zeros(num_classes),
            }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            method_state=method_state,
            opt_state=tx.init(params),
            dynamic_scale=DynamicScale(
                fin_steps=jnp.int32(0), scale=jnp.float32(2**16), minimum_scale=2.0**-14
            )
            if dynamic_scale
            else None,
        )

    return init(key)
