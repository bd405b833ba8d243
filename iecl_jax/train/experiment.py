"""A config made into the functions that training is made of."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import data, methods
from iecl_jax.data import augment
from iecl_jax.methods import Method
from iecl_jax.methods.parts import objective
from iecl_jax.train import optim
from iecl_jax.train import state as train_state
from iecl_jax.train.state import TrainState
from iecl_jax.train.step import AXIS, train_step


class Experiment(NamedTuple):
    """A config made into functions.

    Attributes:
      method: see `methods.Method`.
      pure_step: (state, batch of one device, seed uint32) -> (state, metrics), under an axis named
        AXIS. The seed is an argument so that runs of other seeds share a compilation cache.
      step: it pmapped, (state, batch [D, b, ...]) -> (state, metrics); donates the state.
      steps: as many steps as there are batches, from 1 to `config.train.steps_per_call`, in one
        call of the devices: (state, batches) -> (state, metrics [steps_per_call], where rows past
        the number of batches are zero). Compiled once, whatever that number.
      views: (step, batch of one device) -> views [2, b, S, S, 3], as the step makes them.
      create_state: () -> the initial TrainState of `config.seed`.
    """

    method: Method
    pure_step: Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]
    step: Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]
    steps: Callable[[TrainState, Sequence[Any]], tuple[TrainState, dict[str, jax.Array]]]
    views: Callable[[int, Any], jax.Array]
    create_state: Callable[[], TrainState]


def build(
    config: ml_collections.ConfigDict, *, total_steps: int, steps_per_epoch: int, num_classes: int
) -> Experiment:
    """The experiment of a config; nothing is compiled yet."""
    method = methods.make(config, total_steps=total_steps, axis_name=AXIS)
    schedule = optim.learning_rate(config, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
    tx = optim.make(config, schedule)

    make_views = augment.make_augment(
        config.augment, config.data.image_size, *data.statistics(config.data)
    )
    step_objective = objective.make(config, method.loss, axis_name=AXIS)
    seed = np.uint32(config.seed)

    def pure_step(state, batch, seed):
        return train_step(
            state,
            batch,
            method=method,
            objective=step_objective,
            augment=make_views,
            image_keys=functools.partial(augment.image_keys, augment.run_key(seed)),
            tx=tx,
            schedules={"learning_rate": schedule, **method.schedules},
        )

    def pure_steps(state, batches, count, seed):
        if len(batches) == 1:
            state, metrics = pure_step(state, batches[0], seed)
            return state, jax.tree.map(lambda x: x[None], metrics)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        batch_at = lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: E731
        _, shapes = jax.eval_shape(pure_step, state, batch_at(0), seed)
        rows = jax.tree.map(lambda x: jnp.zeros((len(batches), *x.shape), x.dtype), shapes)

        def body(i, carry):
            state, rows = carry
            state, metrics = pure_step(state, batch_at(i), seed)
            return state, jax.tree.map(lambda row, x: row.at[i].set(x), rows, metrics)

        return jax.lax.fori_loop(0, count, body, (state, rows))

    # Replicas are equal, so the state goes in and comes out as one tree, without a device axis.
    pmap = functools.partial(jax.pmap, axis_name=AXIS, out_axes=(None, None), donate_argnums=0)
    pmapped = pmap(pure_step, in_axes=(None, 0, None))
    pmapped_steps = pmap(pure_steps, in_axes=(None, 0, None, None))
    per_call = config.train.steps_per_call

    def steps(state, batches):
        padded = [*batches, *[batches[-1]] * (per_call - len(batches))]
        return pmapped_steps(state, padded, np.int32(len(batches)), seed)

    @jax.jit
    def views(seed, step, batch):
        keys = augment.image_keys(augment.run_key(seed), step, jnp.arange(len(batch["label"])))
        return make_views(keys, batch["image"])

    size = config.data.image_size
    images = config.saib.group_size if config.saib.enabled else 2
    replicated = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec())

    def create_state():
        state = train_state.create(
            jax.random.split(jax.random.key(config.seed))[0],
            method=method,
            tx=tx,
            view_shape=(images, size, size, 3),
            num_classes=num_classes,
            dynamic_scale=config.train.precision == "float16",
        )
        # Where the step leaves it: for a state elsewhere it would be compiled once more.
        return jax.device_put(state, replicated)

    return Experiment(
        method,
        pure_step,
        lambda state, batch: pmapped(state, batch, seed),
        steps,
        functools.partial(views, seed),
        create_state,
    )
