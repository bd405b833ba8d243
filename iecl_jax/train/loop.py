"""Pretraining: data -> step -> writer -> evaluations -> checkpoints."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from clu import metric_writers, periodic_actions

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.evals.diagnostics import CollapseError, Diagnostics, Measured
from iecl_jax.evals.pictures import spectrum
from iecl_jax.evals.pictures.run_gallery import RunGallery
from iecl_jax.evals.schedule import Scheduled, scheduled
from iecl_jax.run import distributed, summaries, workdir
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.metrics import MetricLog, write_scalars
from iecl_jax.run.preemption import EXIT_CODE, Preemption
from iecl_jax.run.seal import digest
from iecl_jax.tools.figures import report
from iecl_jax.train.experiment import build
from iecl_jax.train.state import TrainState


def pretrain(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """Trains to the end, resuming from the newest checkpoint in `run_dir`; returns results.json.

    Leaves in `run_dir`: config.json, provenance.json, event files, gallery/STEP.png, checkpoints/,
    results.json, report.html. A run that was killed goes on bit for bit as if it had not been.

    Raises:
      ValueError: the config is impossible, or `run_dir` belongs to another one.
      FloatingPointError: the loss or a gradient is not finite.
      CollapseError: with `diagnostics.stop_on_collapse`, once a checkpoint is written; started
        again, the run goes on to the next measurement.
      SystemExit: with code 75 after SIGTERM, once a checkpoint is written.
    """
    started = time.monotonic()
    config_lib.check(config, jax.device_count())
    split = data.open_split(config.data, "pretrain")
    steps_per_epoch = max(1, len(split) // config.train.batch_size)
    total_steps = config.train.num_steps or config.train.num_epochs * steps_per_epoch
    data.check_batches(config, split)
    config_lib.check_length(
        config, num_images=len(split), steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    experiment = build(
        config,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        num_classes=split.num_classes,
    )
    evaluations = scheduled(config, experiment.method, split, run_dir)
    gallery = RunGallery(config, experiment.method, split, run_dir, experiment.views)
    workdir.prepare(run_dir, config, command=sys.argv, allow_change=allow_config_change)
    checkpointer = Checkpointer(
        run_dir,
        keep=config.checkpoint.keep,
        keep_best=config.checkpoint.keep_best,
        keep_every_steps=config.checkpoint.keep_every_steps,
        config=config,
    )
    state = experiment.create_state()
    restored = checkpointer.restore(state)
    first_step, position, saved = 0, 0, None
    if restored is not None:
        first_step, state, position = restored
        saved = first_step
        logging.info("Resuming from step %d of %d.", first_step, total_steps)
        if first_step > total_steps:
            raise ValueError(
                f"{run_dir} has trained {first_step} steps already, more than the {total_steps} "
                "asked for: use another --workdir, or train longer."
            )
    finished = workdir.read_results(run_dir)
    if first_step == total_steps and distributed.agreed(finished is not None):
        logging.info("This run is finished; nothing is left to do.")
        return finished or {}
    writer = summaries.create_writer(run_dir)
    log = MetricLog(writer, steps_per_epoch, config.train.batch_size)
    progress = periodic_actions.ReportProgress(
        num_train_steps=total_steps,
        every_steps=config.train.log_every_steps,
        every_secs=None,
    )
    every_eval = config.eval.every_epochs * steps_per_epoch
    every_diagnosis = config.diagnostics.every_steps
    diagnose = Diagnostics(config, split) if every_diagnosis else None
    log_steps, save_steps = config.train.log_every_steps, config.checkpoint.every_steps
    scores: dict[str, Any] = {}
    diagnosis: dict[str, float] = {}

    with data.TrainBatches(config, split, start=position) as batches, Preemption() as preemption:
        for taken in calls(
            first_step,
            total_steps,
            most=config.train.steps_per_call,
            intervals=[log_steps, every_eval, every_diagnosis, save_steps],
        ):
            state, metrics = experiment.steps(state, [next(batches) for _ in taken])
            log.add(taken, metrics)
            step = taken[-1]
            progress(step)
            last = step == total_steps
            due_eval = last or (every_eval > 0 and step % every_eval == 0)
            stop = preemption.due()
            due_diagnosis = diagnose is not None and not stop and step % every_diagnosis == 0
            due_diagnosis |= diagnose is not None and due_eval
            due_save = last or stop or step % save_steps == 0
            due_save |= due_eval and config.checkpoint.keep_best > 0  # so that the best is kept
            if step % log_steps == 0 or due_eval or due_save or due_diagnosis:
                log.write(saved)
            alarms = []
            if diagnose is not None and due_diagnosis:
                measured = diagnose(state)
                diagnosis = measured.values
                write_diagnosis(writer, step, measured, with_layers=due_eval)
                alarms = diagnose.alarms(diagnosis)
                for alarm in alarms:
                    logging.warning("step %d: %s", step, alarm)
                if last or not config.diagnostics.stop_on_collapse:
                    alarms = []
                elif distributed.agreed(bool(alarms)) != bool(alarms):
                    alarms = [] if alarms else ["Process 0 measured a collapse."]
                due_save |= bool(alarms)
                log.restart_clock()
            if due_eval:
                scores = evaluate(evaluations, state, Now(step, last))
                if numbers(scores):
                    write_scalars(writer, "eval", step, numbers(scores))
                picture = gallery(step, state)
                writer.write_images(step, {"gallery": picture[None]})
                log.restart_clock()
            if due_save:
                best = numbers(scores) if due_eval else None
                checkpointer.save(step, state, position=batches.position, metrics=best)
                saved = step
            if alarms:
                checkpointer.close()
                writer.flush()
                raise CollapseError(
                    f"step {step}, which is saved: {alarms[0]} diagnostics.stop_on_collapse=False "
                    "would go on with a warning."
                )
            if stop and not last:
                checkpointer.close()
                writer.flush()
                logging.warning("Stopped by SIGTERM after step %d, which is saved.", step)
                raise SystemExit(EXIT_CODE)
    checkpointer.close()
    if first_step == total_steps:
        scores = evaluate(evaluations, state, Now(total_steps, last=True))
    writer.flush()
    if diagnose is not None and not diagnosis:
        diagnosis = diagnose(state).values
    results = workdir.write_results(
        run_dir,
        job="pretrain",
        metrics=log.last | scores | ({"diagnostics": diagnosis} if diagnosis else {}),
        steps=total_steps,
        seconds=time.monotonic() - started,
        images_per_second=log.images_per_second,
        seed=config.seed,
        params_digest=digest(state.params),
    )
    if jax.process_index() == 0:
        try:
            logging.info("Report: %s", report.write(run_dir))
        except Exception as error:  # a page must not fail a finished training
            logging.warning("No report: %s", error)
    return results


class Now(NamedTuple):
    """A moment of the training: after `step` steps."""

    step: int
    last: bool


def evaluate(evaluations: Sequence[Scheduled], state: TrainState, now: Now) -> dict[str, Any]:
    """What the evaluations that are due measure."""
    scores: dict[str, Any] = {}
    for evaluation in evaluations:
        if evaluation.due(now):
            scores |= evaluation(state, now)
    return scores


def numbers(scores: dict[str, Any]) -> dict[str, float]:
    """The scores that are numbers, not tables of them."""
    return {name: value for name, value in scores.items() if isinstance(value, float)}


def calls(first: int, total: int, *, most: int, intervals: Sequence[int]) -> Iterator[range]:
    """The steps after `first` up to `total`, as the ranges that go to the device in one call.

    A call takes `most` steps, or fewer if a multiple of one of the `intervals` comes before (0 is
    none) or the training ends.
    """
    step = first
    while step < total:
        until = [every - step % every for every in intervals if every]
        count = min([most, total - step, *until])
        yield range(step + 1, step + count + 1)
        step += count


def write_diagnosis(
    writer: metric_writers.MetricWriter, step: int, measured: Measured, *, with_layers: bool
) -> None:
    """Writes a measurement's numbers; `with_layers` each convolution's and the spectrum too."""
    write_scalars(writer, "diagnostics", step, measured.values)
    if not with_layers:
        return
    for name, norms in measured.layers.items():
        write_scalars(writer, name, step, norms)
    if measured.spectrum is not None and np.isfinite(measured.values["log_det"]):
        drawn = spectrum.draw(measured.spectrum, f"Jacobian of SAIB, step {step}")
        writer.write_images(step, {"jacobian_spectrum": drawn[None]})
