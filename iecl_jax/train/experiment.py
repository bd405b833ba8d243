"""A config made into the functions that training is made of."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import data, methods
from iecl_jax.data import augment
from iecl_jax.methods import Method
from iecl_jax.methods.parts import objective
from iecl_jax.train import optim
from iecl_jax.train import state as train_state
from iecl_jax.train.state import TrainState
from iecl_jax.train.step import AXIS, train_step

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What a config trains, and how. Nothing is compiled before it is called.

    Attributes:
      config: of pretraining.
      method: see `methods.Method`.
      objective: (outputs, params) -> (loss, terms), see `methods.parts.objective`.
      tx: the optimizer, see `train.optim`.
      schedules: name -> function of the step; logged.
      make_views: (keys [b], images) -> views, see `data.augment`.
      num_classes: of the online probe; 0 leaves the probe out.
    """

    config: ml_collections.ConfigDict
    method: Method
    objective: objective.Objective
    tx: optax.GradientTransformation
    schedules: Mapping[str, Callable[[jax.Array], jax.Array]]
    make_views: Callable[[jax.Array, Any], list[jax.Array]]
    num_classes: int

    def pure_step(
        self, state: TrainState, batch: Batch, seed: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """One step of one device, under an axis named AXIS.

        Args:
          state: equal on all devices.
          batch: of this device, see `train_step`.
          seed: uint32 []. An argument, so that runs of other seeds share a compiled program.
        """
        return train_step(
            state,
            batch,
            method=self.method,
            objective=self.objective,
            augment=self.make_views,
            image_keys=functools.partial(augment.image_keys, augment.run_key(seed)),
            tx=self.tx,
            schedules=self.schedules,
        )

    def pure_steps(
        self, state: TrainState, batches: Sequence[Batch], count: jax.Array, seed: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """`pure_step` of the first `count` (int32 []) of the batches, one after the other.

        Returns:
          (new state, metrics [len(batches)]); the rows from `count` on are zero.
        """
        if len(batches) == 1:
            state, metrics = self.pure_step(state, batches[0], seed)
            return state, jax.tree.map(lambda x: x[None], metrics)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        _, shapes = jax.eval_shape(self.pure_step, state, batches[0], seed)
        rows = jax.tree.map(lambda x: jnp.zeros((len(batches), *x.shape), x.dtype), shapes)

        def body(i, carry):
            state, rows = carry
            batch = jax.tree.map(lambda leaf: leaf[i], stacked)
            state, metrics = self.pure_step(state, batch, seed)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, rows))

    def mapped(self, devices: Sequence[Any] | None = None) -> Any:
        """`pure_steps` under `jax.pmap`, with batches [D, b, ...]; it donates the state.

        Args:
          devices: to map over; None = all there are.
        """
        # Replicas are equal, so the state goes in and comes out as one tree, without a device axis.
        return jax.pmap(
            self.pure_steps,
            axis_name=AXIS,
            in_axes=(None, 0, None, None),
            out_axes=(None, None),
            devices=devices,
            donate_argnums=0,
        )

    @functools.cached_property
    def _on_all_devices(self) -> Any:
        return self.mapped()

    def steps(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Metrics]:
        """A step for each batch, in one call of the devices; what training calls.

        Compiled once, whatever the number of batches.

        Args:
          state: on all devices; donated.
          batches: from 1 to `config.train.steps_per_call`, each [D, b, ...].

        Returns:
          (new state, metrics [steps_per_call]); the rows past the number of batches are zero.
        """
        missing = self.config.train.steps_per_call - len(batches)
        padded = [*batches, *[batches[-1]] * missing]
        count, seed = np.int32(len(batches)), np.uint32(self.config.seed)
        return self._on_all_devices(state, padded, count, seed)

    @functools.cached_property
    def _views(self) -> Callable[..., list[jax.Array]]:
        def views(seed, step, batch):
            keys = augment.image_keys(augment.run_key(seed), step, jnp.arange(len(batch["label"])))
            return self.make_views(keys, batch["image"])

        return jax.jit(views)

    def views(self, step: int, batch: Batch) -> list[jax.Array]:
        """Views [b, S_i, S_i, 3] of a batch of one device, as `step` makes them."""
        return self._views(np.uint32(self.config.seed), step, batch)

    def create_state(self) -> TrainState:
        """The initial state of `config.seed`, on all devices of this process."""
        config, size = self.config, self.config.data.image_size
        images = config.saib.group_size if config.saib.enabled else 2
        state = train_state.create(
            jax.random.split(jax.random.key(config.seed))[0],
            method=self.method,
            tx=self.tx,
            view_shape=(images, size, size, 3),
            num_classes=self.num_classes,
            dynamic_scale=config.train.precision == "float16",
        )
        # Where the step leaves it: for a state elsewhere it would be compiled once more.
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,))
        return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def build(
    config: ml_collections.ConfigDict, *, total_steps: int, steps_per_epoch: int, num_classes: int
) -> Experiment:
    """The experiment of a config."""
    method = methods.make(config, total_steps=total_steps, axis_name=AXIS)
    rate = optim.learning_rate(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Experiment(
        config=config,
        method=method,
        objective=objective.make(config, method.loss, axis_name=AXIS),
        tx=optim.make(config, rate),
        schedules={"learning_rate": rate, **method.schedules},
        make_views=augment.make_augment(
            config.augment, config.data.image_size, *data.statistics(config.data)
        ),
        num_classes=num_classes,
    )
