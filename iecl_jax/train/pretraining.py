"""Pretraining: opens the images, starts or resumes the run, trains, and writes results.json."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from iecl_jax import config as config_lib
from iecl_jax import console, data, methods
from iecl_jax.methods.parts import crops
from iecl_jax.run import command_line, distributed, workdir
from iecl_jax.run.checkpoint import Checkpointer, Restored
from iecl_jax.run.continuity import Terms
from iecl_jax.run.seal import digest
from iecl_jax.train import starting
from iecl_jax.train.actions import (
    Diagnose,
    Diagnostics,
    Draw,
    Evaluate,
    Evaluation,
    Every,
    Log,
    Save,
    SaveFirst,
)
from iecl_jax.train.experiment import Experiment, build
from iecl_jax.train.loop import Action, Run, train


class Pretraining(NamedTuple):
    """A checked pretraining config with its images and its experiment.

    Attributes:
      config: the pretraining config.
      split: the images to train on.
      experiment: what is trained, see `train.experiment`.
      steps_per_epoch, total_steps: the length of an epoch and of the training, in steps.
      begun: time.monotonic() before the images were opened.
    """

    config: ml_collections.ConfigDict
    split: data.Split
    experiment: Experiment
    steps_per_epoch: int
    total_steps: int
    begun: float


def prepare(config: ml_collections.ConfigDict) -> Pretraining:
    """Checks the config, opens the images and builds the experiment. Writes and compiles nothing.

    Raises:
      ValueError: the config is invalid, or does not fit the encoder, the images or the devices.
    """
    begun = time.monotonic()
    config_lib.check(config, jax.device_count())
    crops.check(config)
    with console.waiting(f"Opening the images of {config.data.name}"):
        split = data.open_split(config.data, "pretrain")
    distributed.check_same("training images", split.identity)
    lengths = _lengths(config, len(split))
    data.check_batches(config, split)
    config_lib.check_length(config, num_images=len(split), **lengths)
    experiment = build(config, num_classes=split.num_classes, num_images=len(split), **lengths)
    return Pretraining(config, split, experiment, **lengths, begun=begun)


def _lengths(config: ml_collections.ConfigDict, num_images: int) -> dict[str, int]:
    """Returns the length of an epoch and of the training in steps, by their names in `build`."""
    steps_per_epoch = max(1, num_images // config.train.batch_size)
    total_steps = config.train.num_steps or config.train.num_epochs * steps_per_epoch
    return {"steps_per_epoch": steps_per_epoch, "total_steps": total_steps}


def start(
    task: Pretraining,
    run_dir: str,
    *,
    encode: Callable[[Any, Any], np.ndarray] | None = None,
    allow_config_change: bool = False,
) -> Run:
    """Returns the run in `run_dir`: a new one, or one restored from its newest checkpoint.

    `encode` is that of `pretrain`.

    Raises:
      ValueError: `run_dir` belongs to another config, or none of its checkpoints is whole.
    """
    config, images = task.config, task.split.identity
    begin_with = starting.read(config, run_dir)
    changed = workdir.changes(run_dir, config, allow_change=allow_config_change)
    checkpointer = Checkpointer(
        run_dir,
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        keep_every_steps=config.checkpoint.keep_every_steps,
        config=config,
    )
    if checkpointer.newest() is None:
        state = starting.put(task.experiment.create_state(), begin_with)
    else:
        state = task.experiment.state_template()
    terms = Terms(
        config=config,
        images=images,
        steps_per_epoch=task.steps_per_epoch,
        in_epochs=config.train.num_steps == 0,
        allow_change=allow_config_change,
    )
    run = Run(
        run_dir=run_dir,
        checkpointer=checkpointer,
        state=state,
        steps=task.experiment.steps,
        open_batches=functools.partial(data.TrainBatches, config, task.split),
        total=task.total_steps,
        steps_per_epoch=task.steps_per_epoch,
        batch_size=config.train.batch_size,
        begin_epoch=_begin_epoch(task, encode),
        terms=terms,
        begun=task.begun,
    )
    words = command_line.typed()
    workdir.record(run_dir, config, command=words, changed=changed, images=images)
    checkpointer.open()
    if run.earlier is not None:
        _tell_jumps(task, run.earlier)
    return run


def _begin_epoch(
    task: Pretraining, encode: Callable[[Any, Any], np.ndarray] | None
) -> Callable[[Any, int], Any] | None:
    """Returns what the run does before each epoch, if the method does anything."""
    new_epoch = task.experiment.method.new_epoch
    if new_epoch is None:
        return None

    def begin(state: Any, epoch: int) -> Any:
        with console.waiting(f"{new_epoch.title}, before epoch {epoch + 1}"):
            return jax.block_until_ready(task.experiment.begin_epoch(state, epoch, encode))

    return begin


def _tell_jumps(task: Pretraining, earlier: Restored) -> None:
    """Logs which schedules jump where the run is resumed, because a setting of theirs changed."""
    images = earlier.facts.get("images", task.split.identity)["images"]
    lengths = _lengths(earlier.config, images)
    if earlier.config == task.config and lengths["total_steps"] == task.total_steps:
        return
    before = build(earlier.config, num_classes=task.split.num_classes, **lengths).schedules
    for name, schedule in task.experiment.schedules.items():
        old, new = (float(each(jnp.asarray(earlier.step))) for each in (before[name], schedule))
        if not math.isclose(old, new, rel_tol=1e-5):
            logging.warning(
                "The settings changed: after step %d, %s is %.3g; it was %.3g before.",
                *(earlier.step, name, new, old),
            )


def pretrain(
    task: Pretraining,
    run_dir: str,
    *,
    evaluations: Sequence[Evaluation] = (),
    diagnostics: Diagnostics | None = None,
    draw: Callable[[int, Any], Mapping[str, np.ndarray]] | None = None,
    encode: Callable[[Any, Any], np.ndarray] | None = None,
    allow_config_change: bool = False,
) -> dict[str, Any]:
    """Trains to the end, starting from the newest checkpoint in `run_dir` if there is one.

    A run that was killed and resumed gives the same result, bit for bit, as one that was not.

    Args:
      task: what `prepare` returned.
      run_dir: gets config.json, provenance.json, event files, checkpoints/ and results.json.
      evaluations: evaluations during and after the training, see `train.actions.Evaluate`.
      diagnostics: measures the state during the training, see `train.actions.Diagnose`.
      draw: draws pictures of the state, see `train.actions.Draw`.
      encode: (params, method_state) -> features float32 [N, F] of the N training images, for a
        method that needs them before each epoch (`Method.new_epoch`).
      allow_config_change: if True, `run_dir` may have been started with another config.

    Returns:
      The content of results.json.

    Raises:
      ValueError: see `start`.
      FloatingPointError, CollapseError, SystemExit: see `loop.train`.
    """
    config = task.config
    with console.waiting("Making the network"):
        run = start(task, run_dir, encode=encode, allow_config_change=allow_config_change)
    finished = workdir.read_results(run_dir)
    # The results of a run that is started with other settings are measured again.
    same = run.earlier is not None and workdir.same_run(run.earlier.config, config)
    if same and run.step == run.total and distributed.agreed(finished is not None):
        logging.info("This run is finished; nothing is left to do.")
        run.checkpointer.close()
        return finished or {}
    _introduce(task, run)
    # Galleries and layer-wise diagnostics come together with the scheduled evaluations.
    milestone = Every(config.eval.every_epochs * task.steps_per_epoch, at_end=True)
    log = Log(run, config.train.log_every_steps)
    measuring: list[Action] = []
    if diagnostics is not None:
        alarms = functools.partial(methods.alarms, config)
        measuring.append(Diagnose(run, diagnostics, config.diagnostics, milestone, alarms))
    measuring += [Evaluate(run, evaluation) for evaluation in evaluations]
    if draw is not None:
        measuring.append(Draw(run, draw, milestone))
    save = Save(run, config.checkpoint.every_steps, scored=config.checkpoint.keep_best > 0)
    actions: list[Action] = [log, SaveFirst(save, measuring), *measuring, save]
    last = train(run, actions, steps_per_call=config.train.steps_per_call)
    diagnosis = {"diagnostics": last.diagnosis} if last.diagnosis else {}
    return workdir.write_results(
        run_dir,
        job="pretrain",
        metrics=run.log.last | last.scores | diagnosis,
        steps=run.total,
        seconds=run.seconds,
        images_per_second=run.log.images_per_second,
        seed=config.seed,
        data=config.data,
        params_digest=digest(run.state.params),
    )


def _introduce(task: Pretraining, run: Run) -> None:
    """Says what will be trained on what, how long, and where it will lie."""
    config, split = task.config, task.split
    classes = f" of {split.num_classes} classes" if split.num_classes else ", unlabelled"
    epochs = task.total_steps / task.steps_per_epoch
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.state.params))
    console.say(
        f"{config_lib.trained(config)} on {config.data.name}: {len(split):,} images{classes}, "
        f"{config.data.image_size} px\n"
        f"  {task.total_steps:,} steps of {config.train.batch_size} images ({epochs:,.4g} epochs), "
        f"{parameters:,} parameters, {config.train.precision}, {workdir.device_description()}\n"
        f"  Folder: {run.run_dir}"
    )
