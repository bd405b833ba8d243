"""Trains an encoder and a head together on a task of its own, with the loop of the pretraining.

An evaluation describes its task by a `Task`, inherits the settings of `Training`, and calls `check`
before it starts and `train` to start. A training that was killed and resumed gives the same result,
bit for bit; the global batch, not the number of devices, decides what is trained.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from iecl_jax import console
from iecl_jax.config.pretrain import BATCH
from iecl_jax.config.rules import (
    BELOW_ONE,
    COUNT,
    COUNT_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Rule,
    multiple,
)
from iecl_jax.config.section import Section, key
from iecl_jax.data import augment
from iecl_jax.data.stream import Stream
from iecl_jax.evals.parts import results
from iecl_jax.evals.parts.encoder import replicate
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import collectives
from iecl_jax.models.precision import DTYPES
from iecl_jax.run import distributed, workdir
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.continuity import Terms
from iecl_jax.run.seal import digest
from iecl_jax.train import actions, loop, optim
from iecl_jax.train import state as train_state
from iecl_jax.train.state import TrainState
from iecl_jax.train.step import AXIS, gradients, unless_overflow

T = TypeVar("T")
Loss = tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]
PLACES = Rule(
    lambda shares: all(0 < share < 1 for share in shares), "() or numbers between 0 and 1"
)


class Optimizer(Section):
    """The optimizer of all parameters."""

    name = key("sgd", optim.PLAIN, "the optimizer; sgd and adam are PyTorch's")
    learning_rate = key(0.01, POSITIVE, "peak learning rate, not scaled by the batch")
    momentum = key(0.9, BELOW_ONE, "momentum of sgd; b1 of adam and adamw")
    weight_decay = key(5e-4, NOT_NEGATIVE, "weight decay")
    decay = key("kernels", ("kernels", "all"), "what decays: kernels, or norms and biases too")
    clip_norm = key(0.0, NOT_NEGATIVE, "largest norm of the whole gradient; 0 = no limit")


class Schedule(Section):
    """The learning rate over the steps."""

    decay = key(
        "poly",
        ("poly", "cosine", "drops"),
        "poly: peak * (1 - share of the steps)^power; drops: the peak, which drops at some steps",
    )
    power = key(0.9, POSITIVE, "power of poly")
    end_factor = key(0.01, SHARE, "rate at the end of poly and cosine, as a share of the peak")
    drop_at = key((0.7, 0.9), PLACES, "where drops drops, as shares of the steps")
    drop_factor = key(0.1, SHARE, "factor of the rate at each drop")
    warmup_steps = key(0, COUNT_OR_NONE, "steps in which the rate rises to its peak, linearly")


class Training(Section):
    """The settings of a training. A job changes a default by declaring the key again."""

    batch_size = key(16, BATCH, "images per step, over all devices")
    num_steps = key(20_000, COUNT, "steps of the training")
    precision = key("float32", tuple(DTYPES), "type of the activations; parameters are float32")
    remat = key(False, None, "less memory, a third more work: the backward pass recomputes blocks")
    log_every_steps = key(50, COUNT, "steps between two entries of the log")
    eval_every_steps = key(0, COUNT_OR_NONE, "steps between evaluations; 0 = only at the end")
    save_every_steps = key(1000, COUNT, "steps between checkpoints")
    optimizer, schedule = Optimizer, Schedule


class Task(NamedTuple):
    """What is trained.

    Attributes:
      name: the section of the settings, which is also the group of the metrics in the log.
      title: what the training does, for the console.
      params, stats: the variables with which it starts, on the host: {"encoder", "head"} each.
      loss: (params, stats, batch [b], keys [b]) -> (loss of this device, (new stats, metrics)). The
        keys are the images' own. BN and counts are over the devices of `train.step.AXIS`; the mean
        of the losses over the devices is that of the global batch.
      open_batches: called with start=N, returns the batches of `batch_size` images from number N.
      images: what identifies the training images, JSON values; "images" is their number.
      evaluate: variables (params, stats) on the devices -> scores.
      draw: (params, stats) -> pictures uint8 [h, w, 3] by name.
      words: {score: description}, see RESULTS in `evals`; told after each evaluation.
      part: a name, if a job trains several times from the same encoder: of the folder.
      rates: float32 [], the peak learning rate of each parameter, like `params`; None = all have
        `optimizer.learning_rate`. They are part of the state, so that trainings with other rates
        share the compiled step.
      way_out: a sentence that says what to do if the loss is not finite; "" = lower the rate.
    """

    name: str
    title: str
    params: Any
    stats: Any
    loss: Callable[[Any, Any, Any, jax.Array], Loss]
    open_batches: Callable[..., Stream]
    images: Mapping[str, Any]
    evaluate: Callable[[Any, Any], Mapping[str, Any]]
    draw: Callable[[Any, Any], Mapping[str, np.ndarray]]
    words: Mapping[str, str]
    part: str = ""
    rates: Any = None
    way_out: str = ""


def built_once(make: Callable[[Subject, Any], T]) -> Callable[[Subject, Any], T]:
    """Decorates a function from subject and settings: the newest result is not made again.

    The function gets frozen settings; `check` and `measure` of an evaluation so share a task.
    """
    cached = functools.lru_cache(maxsize=1)(make)

    @functools.wraps(make)
    def made_once(subject: Subject, settings: Any) -> T:
        return cached(subject, ml_collections.FrozenConfigDict(settings))

    return made_once


def check(name: str, settings: Any, num_images: int) -> None:
    """Raises ValueError if the batch does not fit the devices or the images, or a value another."""
    multiple(f"{name}.batch_size", settings.batch_size, jax.device_count(), "devices")
    if settings.batch_size > num_images:
        raise ValueError(
            f"{name}.batch_size={settings.batch_size} is more than the {num_images} training "
            "images: lower it."
        )
    if settings.schedule.warmup_steps >= settings.num_steps:
        raise ValueError(
            f"{name}.schedule.warmup_steps={settings.schedule.warmup_steps} must be less than "
            f"{name}.num_steps={settings.num_steps}."
        )


def check_resume(subject: Subject, task: Task, settings: Any) -> None:
    """Raises ValueError if a training that is already there cannot go on with these settings.

    Also if the processes have different images.
    """
    distributed.check_same("training images", task.images)
    checkpointer, terms = _resumable(subject, task, settings)
    if earlier := checkpointer.earlier():
        terms.check(*earlier)
        loop.check_total(subject.run_dir, earlier[0], settings.num_steps)


def train(subject: Subject, task: Task, settings: Any) -> tuple[TrainState, dict[str, Any]]:
    """Trains to the end, from the newest checkpoint if there is one.

    Checkpoints and log are in RUN_DIR/training-DIGEST[-PART], where DIGEST identifies the weights
    of the encoder at the start; a training that starts from others gets its own folder.

    Returns:
      (the trained state, the scores at the end).

    Raises:
      FloatingPointError: the loss is not finite.
      SystemExit: see `loop.train`.
    """
    checkpointer, terms = _resumable(subject, task, settings)
    mapped, seed = mapped_step(task, settings), np.uint32(subject.seed)
    run = loop.Run(
        run_dir=str(_folder(subject, task)),
        checkpointer=checkpointer,
        state=first_state(task, settings),
        steps=lambda state, batches: mapped(state, *batches, seed),
        open_batches=task.open_batches,
        total=settings.num_steps,
        steps_per_epoch=terms.steps_per_epoch,
        batch_size=settings.batch_size,
        group=task.name,
        terms=terms,
        title=task.title,
    )
    subject.work.seconds += run.seconds_before
    _introduce(task, settings, run)
    at_end = actions.Every(0, at_end=True)
    measuring: list[loop.Action] = [
        actions.Evaluate(run, _Evaluation(task, settings.eval_every_steps)),
        actions.Draw(run, lambda step, state: task.draw(state.params, state.method_state), at_end),
    ]
    save = actions.Save(run, settings.save_every_steps)
    log = actions.Log(run, settings.log_every_steps)
    try:
        last = loop.train(run, [log, actions.SaveFirst(save, measuring), *measuring, save])
    except FloatingPointError as error:
        setting = f"{task.name}.optimizer.learning_rate"
        lower = task.way_out or f"Lower {setting}={settings.optimizer.learning_rate}."
        raise FloatingPointError(f"{error} {lower}") from error
    work = subject.work
    work.steps, work.images = run.total, run.total * settings.batch_size
    work.params = jax.device_get(run.state.params)
    # An evaluation that failed only warned, since the training had to go on. Now it may tell.
    scores = last.scores or task.evaluate(run.state.params, run.state.method_state)
    return run.state, {**run.log.last, **scores}


def learning_rate(settings: Any) -> optax.Schedule:
    """Returns the rate by number of earlier steps; see `Schedule`.

    poly is that of Chen et al. 2017, section 4.1, with the end of mmsegmentation's PolyLR.
    """
    peak, total, given = settings.optimizer.learning_rate, settings.num_steps, settings.schedule
    if given.decay == "poly":
        decay = optax.polynomial_schedule(peak, given.end_factor * peak, given.power, total)
    elif given.decay == "cosine":
        decay = optax.cosine_decay_schedule(peak, total, given.end_factor)
    else:
        drops = {round(share * total): given.drop_factor for share in given.drop_at}
        decay = optax.piecewise_constant_schedule(peak, drops)

    def rate(step: jax.Array) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        risen = jnp.minimum((step + 1) / given.warmup_steps, 1) if given.warmup_steps else 1.0
        return jnp.asarray(decay(step) * risen, jnp.float32)

    return rate


def optimizer(
    settings: Any, rate: optax.Schedule, rates: Any = None
) -> optax.GradientTransformation:
    """Returns the optimizer, see `Optimizer`.

    With `rates`, see `Task`, each update is multiplied by the rate of its parameter: every update
    of `optim.plain` is proportional to the rate, which should be 1 at its peak then.
    """
    given = settings.optimizer

    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: given.decay == "all" or optim.is_kernel(path, leaf), params
        )

    tx = optim.plain(given, rate, given.weight_decay, mask)
    if given.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(given.clip_norm), tx)
    if rates is not None:
        tx = optax.chain(tx, _multiplied(rates))
    return tx


def _multiplied(factors: Any) -> optax.GradientTransformation:
    """Returns the multiplication of each update by its factor, which the state holds."""

    def update(updates, state, params=None):
        return jax.tree.map(jnp.multiply, updates, state), state

    return optax.GradientTransformation(lambda _: jax.tree.map(jnp.asarray, factors), update)


def step(
    task: Task,
    tx: optax.GradientTransformation,
    rate: optax.Schedule,
    state: TrainState,
    batch: Any,
    seed: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes a step on one device, under an axis AXIS; returns the state and metrics []."""
    count = len(jax.tree.leaves(batch)[0])
    places = collectives.places(count, AXIS)
    keys = augment.image_keys(augment.run_key(seed), state.step, places)

    def loss_fn(params):
        loss, (stats, metrics) = task.loss(params, state.method_state, batch, keys)
        return loss, (stats, {"loss": loss, **metrics})

    found = gradients(loss_fn, state.params, state.dynamic_scale, AXIS)
    updates, opt_state = tx.update(found.gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(state.step + 1, params, found.carried, opt_state, found.scale)
    new, of_scale = unless_overflow(new, state, found.finite)
    norms = {f"grad_norm_{part}": optax.tree.norm(x) for part, x in found.gradients.items()}
    of_rate = "learning_rate" if task.rates is None else "share_of_peak_rate"
    return new, found.metrics | norms | {of_rate: rate(state.step)} | of_scale


def mapped_step(task: Task, settings: Any, devices: Sequence[Any] | None = None) -> Any:
    """Returns the pmapped `step`: (state, batch [D, b], seed uint32 []) -> (state, metrics [1]).

    The state that is given is lost. `devices` may be only described; None = all.
    """
    rate = learning_rate(settings)
    tx = optimizer(settings, rate, task.rates)

    def one(state, batch, seed):
        state, metrics = step(task, tx, rate, state, batch, seed)
        return state, jax.tree.map(lambda x: x[None], metrics)

    return jax.pmap(
        one,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        donate_argnums=0,
        devices=devices,
    )


def first_state(task: Task, settings: Any) -> TrainState:
    """Returns the state before the first step, placed like the step's output."""
    tx = optimizer(settings, learning_rate(settings), task.rates)

    def make(params, stats):
        scale = train_state.first_scale() if settings.precision == "float16" else None
        return TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), scale)

    train_state.require_memory(jax.eval_shape(make, task.params, task.stats))
    return replicate(jax.jit(make)(task.params, task.stats))


def _folder(subject: Subject, task: Task) -> Path:
    """Returns the folder of the checkpoints and the log."""
    weights = digest((task.params["encoder"], task.stats["encoder"]))
    return Path(subject.run_dir) / "-".join(filter(None, ("training", weights[:12], task.part)))


def _resumable(subject: Subject, task: Task, settings: Any) -> tuple[Checkpointer, Terms]:
    """Returns the checkpoints of a training and their terms."""
    record = ml_collections.ConfigDict({"seed": subject.seed, task.name: settings.to_dict()})
    terms = Terms(
        config=record,
        images=task.images,
        steps_per_epoch=task.images["images"] // settings.batch_size,
        allow_change=subject.allow_change,
    )
    return Checkpointer(_folder(subject, task), keep=1, keep_best=0, config=record), terms


def _introduce(task: Task, settings: Any, run: loop.Run) -> None:
    """Says what will be trained on what, and where it will lie."""
    count = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    console.say(
        f"{task.title}: {task.images['images']:,} images, {run.total:,} steps of "
        f"{settings.batch_size} images ({run.total / run.steps_per_epoch:,.4g} epochs), "
        f"{count:,} parameters, {settings.precision}, {workdir.device_description()}\n"
        f"  Folder: {run.run_dir}"
    )


class _Evaluation:
    """The evaluation of a task, for `actions.Evaluate`."""

    def __init__(self, task: Task, every_steps: int):
        self.name, self._task = task.name, task
        self._every = actions.Every(every_steps, at_end=True)

    def due(self, now: loop.Now) -> bool:
        """Returns True at every multiple of the steps, and at the end."""
        return self._every(now)

    def __call__(self, state: TrainState, now: loop.Now) -> Mapping[str, Any]:
        """Returns the scores of a state, and tells them."""
        with console.waiting("Evaluating"):
            found = self._task.evaluate(state.params, state.method_state)
        if told := results.told(self._task.words, found):
            console.say(f"Step {now.step:,}: {', '.join(told)}")
        return found
