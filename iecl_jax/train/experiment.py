"""Builds everything that a config trains: method, objective, optimizer, views, and the step."""

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

from iecl_jax import config as config_lib
from iecl_jax import data, methods
from iecl_jax.config import own_files
from iecl_jax.data import augment
from iecl_jax.methods import Method
from iecl_jax.methods.parts import objective
from iecl_jax.run.programs import Program
from iecl_jax.train import optim
from iecl_jax.train import state as train_state
from iecl_jax.train.state import TrainState
from iecl_jax.train.step import AXIS, train_step

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """All functions that train a config. Nothing is compiled until it is called.

    Attributes:
      config: the pretraining config.
      method: see `methods.Method`.
      objective: (outputs, params) -> (loss, terms), see `methods.parts.objective`.
      tx: the optimizer, see `train.optim`.
      schedules: functions of the step, by name; their values are logged.
      make_views: (keys [b], images) -> list of views, see `data.augment`.
      num_classes: number of classes of the online probe; 0 = no probe.
      steps_per_epoch: the length of an epoch.
      facts: what all of these follow from. With them, the programs of the state and of the steps
        are kept for later starts, see `run.programs`.
    """

    config: ml_collections.ConfigDict
    method: Method
    objective: objective.Objective
    tx: optax.GradientTransformation
    schedules: Mapping[str, Callable[[jax.Array], jax.Array]]
    make_views: Callable[[jax.Array, Any], list[jax.Array]]
    num_classes: int
    steps_per_epoch: int
    facts: Mapping[str, Any] | None = None

    def pure_step(
        self, state: TrainState, batch: Batch, seed: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Takes one training step on one device. It must run under an axis named AXIS.

        Args:
          state: the state, equal on all devices.
          batch: the images of this device, see `train_step`.
          seed: uint32 []. It is an argument, so that runs with other seeds share the compiled
            program.
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
            steps_per_epoch=self.steps_per_epoch,
        )

    def pure_steps(
        self, state: TrainState, batches: Sequence[Batch], count: jax.Array, seed: jax.Array
    ) -> tuple[TrainState, Metrics]:
        """Takes a step for each of the first `count` (int32 []) batches, in one program.

        Returns:
          (new state, metrics [len(batches)]); metrics from index `count` on are zero.
        """
        if len(batches) == 1:
            state, metrics = self.pure_step(state, batches[0], seed)
            return state, jax.tree.map(lambda x: x[None], metrics)
        # A loop with a dynamic count: one compiled program serves calls of any length.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        step = jax.jit(self.pure_step)  # It is traced once, for the shapes and for the loop.
        _, shapes = jax.eval_shape(step, state, batches[0], seed)
        rows = jax.tree.map(lambda x: jnp.zeros((len(batches), *x.shape), x.dtype), shapes)

        def body(i, carry):
            state, rows = carry
            batch = jax.tree.map(lambda leaf: leaf[i], stacked)
            state, metrics = step(state, batch, seed)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, rows))

    def mapped(self, devices: Sequence[Any] | None = None) -> Any:
        """Returns `pure_steps` under `jax.pmap`, for batches [D, b, ...]; it donates the state.

        Args:
          devices: the devices to map over; None = all.
        """
        # The state is equal on all devices, so it enters and leaves without a device axis.
        return jax.pmap(
            self.pure_steps,
            axis_name=AXIS,
            in_axes=(None, 0, None, None),
            out_axes=(None, None),
            devices=devices,
            donate_argnums=0,
        )

    @functools.cached_property
    def _on_all_devices(self) -> Program:
        everywhere = _everywhere()
        split = NamedSharding(everywhere.mesh, PartitionSpec(AXIS))
        return Program(
            self.mapped(),
            self._facts_of("steps"),
            in_shardings=(everywhere, split, everywhere, everywhere),
            out_shardings=everywhere,
            donate_argnums=0,
        )

    def _facts_of(self, program: str) -> Mapping[str, Any] | None:
        return None if self.facts is None else {**self.facts, "program": program}

    def steps(self, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, Metrics]:
        """Takes a training step for each batch, in one call to the devices.

        The program is compiled once for any number of batches.

        Args:
          state: the state on all devices; it is donated.
          batches: 1 to `config.train.steps_per_call` batches, each [D, b, ...].

        Returns:
          (new state, metrics [steps_per_call]); metrics past the number of batches are zero.
        """
        return self._on_all_devices(*self._arguments(state, batches))

    def compiled(self, state: TrainState, batches: Sequence[Batch]) -> jax.stages.Compiled:
        """Returns the program of `steps`. Of its arguments, only shapes and types count."""
        return self._on_all_devices.compiled(*self._arguments(state, batches))

    def _arguments(self, state: TrainState, batches: Sequence[Batch]) -> tuple[Any, ...]:
        missing = self.config.train.steps_per_call - len(batches)
        padded = [*batches, *[batches[-1]] * missing]
        return state, padded, np.int32(len(batches)), np.uint32(self.config.seed)

    @functools.cached_property
    def _new_epoch(self) -> Any:
        assert self.method.new_epoch is not None
        return jax.jit(self.method.new_epoch.function, out_shardings=_everywhere())

    def begin_epoch(
        self, state: TrainState, epoch: int, encode: Callable[[Any, Any], np.ndarray] | None = None
    ) -> TrainState:
        """Returns the state with which an epoch begins, see `Method.new_epoch`.

        Args:
          state: the state after the epoch before, on all devices.
          epoch: the number of the epoch, from 0.
          encode: (params, method_state) -> features float32 [N, F] of the training images.
        """
        new_epoch = self.method.new_epoch
        if new_epoch is None:
            return state
        features = None
        if new_epoch.encodes and not (new_epoch.first_only and epoch > 0):
            assert encode is not None, "this method needs the features of all images"
            features = jax.device_put(encode(state.params, state.method_state), _everywhere())
        # Numbers 0 and 1 are the keys of the parameters and of the views: `split` is such a fold.
        key = jax.random.fold_in(jax.random.key(self.config.seed), 2)
        key = jax.random.fold_in(key, epoch)
        params, method_state = self._new_epoch(state.params, state.method_state, key, features)
        return dataclasses.replace(state, params=params, method_state=method_state)

    @functools.cached_property
    def _views(self) -> Callable[..., list[jax.Array]]:
        def views(seed, step, batch):
            keys = augment.image_keys(augment.run_key(seed), step, jnp.arange(len(batch["label"])))
            return self.make_views(keys, batch["image"])

        return jax.jit(views)

    def views(self, step: int, batch: Batch) -> list[jax.Array]:
        """Returns the views [b, S_i, S_i, 3] that training makes of a device's batch at `step`."""
        return self._views(np.uint32(self.config.seed), step, batch)

    @functools.cached_property
    def _initial(self) -> Program:
        config, size = self.config, self.config.data.image_size
        images = config.saib.group_size if config.saib.enabled else 2
        return train_state.initial(
            method=self.method,
            tx=self.tx,
            view_shape=(images, size, size, 3),
            num_classes=self.num_classes,
            dynamic_scale=config.train.precision == "float16",
            facts=self._facts_of("state"),
        )

    def state_shapes(self) -> TrainState:
        """Returns the shapes and types of the state."""
        return self._initial.shapes(np.uint32(self.config.seed))

    def state_template(self) -> TrainState:
        """Returns `state_shapes` with the placement of the state, for a checkpoint of it.

        Raises:
          ValueError: the state does not fit into the memory of a device.
        """
        place = functools.partial(jax.ShapeDtypeStruct, sharding=_everywhere())
        shapes = self.state_shapes()
        train_state.require_memory(shapes)
        return jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), shapes)

    def create_state(self) -> TrainState:
        """Returns the initial state for `config.seed`, on all devices of this process."""
        state = train_state.create(self._initial, self.config.seed)
        # Placed like the states that the step returns: another placement would be compiled again.
        return jax.device_put(state, _everywhere())


def _everywhere() -> NamedSharding:
    """Returns the placement of an array that is whole on each device of this process."""
    return NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())


def build(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    steps_per_epoch: int,
    num_classes: int,
    num_images: int | None = None,
) -> Experiment:
    """Returns the experiment of a config.

    Args:
      config: a checked pretraining config.
      total_steps: length of the training; the schedules end there.
      steps_per_epoch: converts `schedule.warmup_epochs` to steps.
      num_classes: number of classes of the online probe; 0 = no probe.
      num_images: number of training images; None = those of one batch.
    """
    statistics = data.statistics(config.data)
    sizes = [total_steps, steps_per_epoch, num_classes, num_images]
    facts = None
    # If a file of the user runs, be it a config, the programs may follow from anything.
    if not (own_files.has_run() or own_files.names_files(config)):
        settings = config_lib.leaves(config)
        del settings["seed"]  # It is an argument of each program.
        facts = {"config": settings, "sizes": sizes, "statistics": statistics}
    method = methods.make(
        config,
        total_steps=total_steps,
        axis_name=AXIS,
        steps_per_epoch=steps_per_epoch,
        num_images=config.train.batch_size if num_images is None else num_images,
    )
    rate = optim.learning_rate(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    return Experiment(
        config=config,
        method=method,
        objective=objective.make(config, method.loss, axis_name=AXIS),
        tx=optim.make(config, rate, method.optimizers, optim.decay_factor(config, total_steps)),
        schedules={"learning_rate": rate, **method.schedules},
        make_views=augment.make_augment(config.augment, config.data.image_size, *statistics),
        num_classes=num_classes,
        steps_per_epoch=steps_per_epoch,
        facts=facts,
    )
