"""Self-supervised methods: pure functions made from a config, one file a method, no base class."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

Tree = Any
Outputs = Mapping[str, jax.Array]


class Method(NamedTuple):
    """What a training step needs of a method. Views are float32 [V, b, S, S, 3], the images of one
    device; view 0 is the anchor, view 1 the query.

    `params` is what the optimizer moves; `method_state` everything else that lasts: BN statistics,
    spectral-norm vectors, momentum encoder, queue. Both are nested dicts.

    Attributes:
      init: (key, views) -> (params, method_state); runs outside the pmapped step.
      forward: (params, method_state, views) -> (outputs, method_state); training mode. `outputs`
        maps names of `objective.OUTPUTS` to float32 arrays of this device's images.
      post_update: (params, method_state, step) -> method_state after the optimizer's update of
        `step` (0-based): the momentum encoder.
      encode: (params, method_state, images [B, S, S, 3]) -> {"stage1", ..., "stage4", "pooled"};
        evaluation mode, the anchor encoder.
      transform: (params, method_state, images [B, S, S, 3], train=False) -> SAIB's output, for
        pictures and measures, by its running BN statistics or, with train=True, by those of the
        images; the images themselves where SAIB is off.
      embed: (params, method_state, views [V, b, S, S, 3]) -> {"pooled" [V, b, F], "projection"
        [V, b, d]} of the online network in training mode, each view with BN statistics of its
        own, as `forward` has them; for measures, so nothing moves.
      schedules: name -> function of the step, logged (the EMA coefficient).
    """

    init: Callable[[jax.Array, jax.Array], tuple[Tree, Tree]]
    forward: Callable[[Tree, Tree, jax.Array], tuple[Outputs, Tree]]
    post_update: Callable[[Tree, Tree, jax.Array], Tree]
    encode: Callable[[Tree, Tree, jax.Array], dict[str, jax.Array]]
    transform: Callable[..., jax.Array]
    embed: Callable[[Tree, Tree, jax.Array], dict[str, jax.Array]]
    schedules: Mapping[str, Callable[[jax.Array], jax.Array]]


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """The method of `config.method.name`, a module of this package with a `make` like this one."""
    module = importlib.import_module(f"iecl_jax.methods.{config.method.name}")
    return module.make(config, total_steps=total_steps, axis_name=axis_name)
