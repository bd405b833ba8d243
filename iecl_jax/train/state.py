"""The state that training carries from step to step, and its initial value."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.dynamic_scale import DynamicScale

from iecl_jax.data import memory
from iecl_jax.methods import Method
from iecl_jax.run import programs

# {part of the state: the settings that decide its size}
SIZES_OF = {
    "projector": "projector.hidden_dim or projector.output_dim",
    "predictor": "method.predictor.hidden_dim or projector.output_dim",
    "memory": "projector.output_dim",
    "prototypes": "method.num_clusters or projector.output_dim",
    "transformer": "method.transformer.hidden_dim or projector.output_dim",
    "queue": "method.queue_size or projector.output_dim",
    "saib": "saib.group_size or data.image_size",
    "encoder": "the sizes of encoder, such as encoder.width",
}


@programs.serializable
@flax.struct.dataclass
class TrainState:
    """The state of a training; equal on all devices.

    Attributes:
      step: int32 scalar, the number of steps taken.
      params: the parameters that the optimizer updates, in subtrees "online", "saib" and
        "online_probe".
      method_state: everything else that changes, such as BN statistics and the momentum encoder
        (see `methods.Method`).
      opt_state: the state of the optax optimizer.
      dynamic_scale: the loss scale in float16; otherwise None.
    """

    step: jax.Array
    params: Any
    method_state: Any
    opt_state: Any
    dynamic_scale: DynamicScale | None = None


def initial(
    *,
    method: Method,
    tx: optax.GradientTransformation,
    view_shape: tuple[int, ...],
    num_classes: int,
    dynamic_scale: bool,
    facts: Mapping[str, Any] | None = None,
) -> programs.Program:
    """Returns the program that makes the initial state: seed uint32 [] -> TrainState.

    Args:
      method: the method to train.
      tx: the optimizer.
      view_shape: (b, S, S, 3), with b a multiple of `saib.group_size`.
      num_classes: number of classes of the online probe; 0 = no probe.
      dynamic_scale: whether to scale the loss, as float16 needs.
      facts: what the other arguments follow from, see `run.programs`.
    """

    def init(seed):
        key = jax.random.split(jax.random.key(seed))[0]  # The other is that of the augmentations.
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
            dynamic_scale=first_scale() if dynamic_scale else None,
        )

    # One program instead of thousands of small ones, one per operation.
    return programs.Program(jax.jit(init), facts)


def create(program: programs.Program, seed: int) -> TrainState:
    """Returns the initial state.

    Args:
      program: what `initial` returned.
      seed: the seed of the run, from 0 to 2**32 - 1.

    Raises:
      ValueError: the state does not fit into the memory of a device; nothing is allocated then.
    """
    number = np.uint32(seed)  # An argument, so that runs with other seeds share the program.
    require_memory(program.shapes(number))
    return program(number)


def first_scale() -> DynamicScale:
    """Returns the loss scale with which a training in float16 begins."""
    # Arrays, since the type of a Python number would change after the first step. The minimum is
    # below 1, so that `run.metrics` sees gradients that overflow at any scale.
    return DynamicScale(fin_steps=jnp.int32(0), scale=jnp.float32(2**16), minimum_scale=2.0**-14)


def require_memory(state: Any) -> None:
    """Raises ValueError, which names the largest array, if the state does not fit into a device.

    Args:
      state: a TrainState of shapes and types.
    """
    sizes = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf.size * leaf.dtype.itemsize
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    room = memory.of_device(jax.local_devices()[0]) or memory.of_host()
    needed, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    if needed > room:
        settings = next((text for part, text in SIZES_OF.items() if part in largest), "its sizes")
        raise ValueError(
            f"the parameters and the rest of the state take {needed / 1e9:,.0f} GB, and the device "
            f"has {room / 1e9:,.0f} GB; {sizes[largest] / 1e9:,.0f} GB are {largest}: lower "
            f"{settings}."
        )
