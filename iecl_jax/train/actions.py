"""The actions between two training steps: log, diagnose, evaluate, draw, save.

Each action knows when it is due (`due`) and does its work when called. `train.loop` calls them.
"""

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from absl import logging

from iecl_jax import console
from iecl_jax.run import distributed, metrics
from iecl_jax.train.loop import Action, Now, Run

_WORTH_SAYING = 60.0  # seconds of expected time
_SHOWN_SCORES = {"knn_top1": "kNN"}  # Score -> its name beside the progress.


@dataclasses.dataclass(frozen=True)
class Every:
    """A schedule: maps a Now to whether something is due.

    Attributes:
      steps: due at every multiple of this many steps; 0 = at none.
      at_end: if True, also due at the last step.
    """

    steps: int
    at_end: bool = False

    def __call__(self, now: Now) -> bool:
        return (self.at_end and now.last) or (self.steps > 0 and now.step % self.steps == 0)


class Evaluation(Protocol):
    """An evaluation of a TrainState with its own schedule; see `evals.parts.schedule`."""

    name: str

    def due(self, now: Now) -> bool:
        """Returns whether to evaluate now."""

    def __call__(self, state: Any, now: Now) -> Mapping[str, Any]:
        """Returns scores by name: numbers, or nested tables of numbers."""


class Diagnosis(Protocol):
    """The result of one measurement of the diagnostics."""

    @property
    def values(self) -> dict[str, float]:
        """Numbers by name."""

    @property
    def layers(self) -> dict[str, dict[str, float]]:
        """Numbers by group and layer: {group: {layer: number}}."""

    def pictures(self, step: int) -> Mapping[str, np.ndarray]:
        """Returns pictures uint8 [h, w, 3] by name."""


class Diagnostics(Protocol):
    """Measures a TrainState; see `evals.parts.diagnostics`."""

    def __call__(self, state: Any) -> Diagnosis:
        """Measures the state."""

    def alarms(self, values: dict[str, float]) -> list[str]:
        """Returns a sentence for each of `Diagnosis.values` that is outside its limit."""


class Log:
    """Tells the progress. When it is due, the loop also writes the metrics, as before any action.

    The time left is that of the steps and of all else since the first call.
    """

    interruptible = False

    def __init__(self, run: Run, every: int):
        self._run, self._every = run, Every(every)
        self._first: tuple[int, float] | None = None  # step and time of the first call

    def due(self, now: Now) -> bool:
        """Returns True at every multiple of `every` steps."""
        return self._every(now)

    def __call__(self, now: Now) -> None:
        """Tells step, loss, scores, speed and the time left."""
        log, left = self._run.log, self._run.total - now.step
        told = [f"loss {log.last['loss']:.4g}"] if "loss" in log.last else []
        told += [
            f"{word} {100 * self._run.scores[name]:.1f} %"
            for name, word in _SHOWN_SCORES.items()
            if name in self._run.scores
        ]
        if log.images_per_second:
            seconds = self._seconds(left, now.step)
            speed = log.images_per_second
            told.append(f"{speed:,.0f} images/s" if speed >= 10 else f"{speed:.2g} images/s")
            if left:
                told.append(f"{console.duration(seconds)} to go")
            if self._first is None:
                self._first = now.step, time.monotonic()
                end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)
                if seconds >= _WORTH_SAYING:
                    console.say(
                        f"Expected time: {console.duration(seconds)}, until {end:%A %H:%M}, "
                        "plus evaluations."
                    )
        self._run.shown.update(now.step, ", ".join(told))
        self._run.shown.tell()

    def _seconds(self, left: int, step: int) -> float:
        if self._first is None or step == self._first[0]:
            return left * self._run.batch_size / self._run.log.images_per_second
        begun, at = self._first
        return left * (time.monotonic() - at) / (step - begun)


class Diagnose:
    """Runs the diagnostics, warns of a collapse, and sets the alarm that ends a collapsed run."""

    interruptible = True

    def __init__(
        self,
        run: Run,
        diagnostics: Diagnostics,
        settings: ml_collections.ConfigDict,
        milestone: Every,
        of_method: Callable[[Mapping[str, float]], list[str]] = lambda metrics: [],
    ):
        """Makes the action.

        Args:
          run: the run to measure.
          diagnostics: makes the measurement.
          settings: `config.diagnostics`.
          milestone: when the values of every layer and the pictures are also written.
          of_method: the alarms of the method, from the newest logged metrics and "epoch".
        """
        self._run, self._diagnostics, self._milestone = run, diagnostics, milestone
        self._of_method = of_method
        self._every, self._stop_on_collapse = Every(settings.every_steps), settings.stop_on_collapse

    def due(self, now: Now) -> bool:
        """Returns True every `diagnostics.every_steps` steps, and at milestones.

        Returns False where a run resumes: otherwise a run that ended with an alarm could never
        continue.
        """
        if now.stop or (now.resumed and not now.last):
            return False
        return self._every(now) or self._milestone(now)

    def __call__(self, now: Now) -> None:
        with _only_measures("diagnostics", now):
            self._measure(now)
        alarms = self._diagnostics.alarms(now.diagnosis) if now.diagnosis else []
        epoch = now.step / self._run.steps_per_epoch
        alarms += self._of_method(self._run.log.last | {"epoch": epoch})
        for alarm in alarms:
            logging.warning("step %d: %s", now.step, alarm)
        # Processes measure separately; rounding must not make only some of them stop.
        if self._stop_on_collapse and not now.last and distributed.agreed(bool(alarms)):
            now.alarm = alarms[0] if alarms else "Process 0 measured a collapse."

    def _measure(self, now: Now) -> None:
        with console.waiting("Measuring entropy, rank and Jacobian"):
            found = self._diagnostics(self._run.state)
        now.diagnosis = found.values
        metrics.write_scalars(self._run.writer, "diagnostics", now.step, found.values)
        if self._milestone(now):
            for group, layers in found.layers.items():
                metrics.write_scalars(self._run.writer, group, now.step, layers)
            _write_pictures(self._run, now, found.pictures(now.step))


class Evaluate:
    """Runs one evaluation when it is due and writes its scores."""

    interruptible = True

    def __init__(self, run: Run, evaluation: Evaluation):
        self._run, self._evaluation = run, evaluation

    def due(self, now: Now) -> bool:
        """Returns True when the evaluation is due, unless the run is about to stop."""
        return not now.stop and self._evaluation.due(now)

    def __call__(self, now: Now) -> None:
        with _only_measures(self._evaluation.name, now):
            scores = self._evaluation(self._run.state, now)
            now.scores |= scores
            if flat := metrics.flat(scores):
                self._run.scores |= flat
                metrics.write_scalars(self._run.writer, "eval", now.step, flat)


class Draw:
    """Draws pictures at milestones."""

    interruptible = True

    def __init__(
        self, run: Run, draw: Callable[[int, Any], Mapping[str, np.ndarray]], milestone: Every
    ):
        """Makes the action.

        Args:
          run: the run whose state is drawn.
          draw: (step, state) -> pictures uint8 [h, w, 3] by name.
          milestone: when to draw.
        """
        self._run, self._draw, self._milestone = run, draw, milestone

    def due(self, now: Now) -> bool:
        """Returns True at milestones, unless the run is about to stop."""
        return not now.stop and self._milestone(now)

    def __call__(self, now: Now) -> None:
        with _only_measures("gallery", now), console.waiting("Drawing the gallery"):
            _write_pictures(self._run, now, self._draw(now.step, self._run.state))


class Save:
    """Saves a checkpoint with the scores of its step. It must be the last of the actions.

    Attributes:
      first: the step that `SaveFirst` saved last; 0 = none.
    """

    interruptible = False

    def __init__(self, run: Run, every: int, *, scored: bool = False):
        """Makes the action.

        Args:
          run: the run to save.
          every: steps between two checkpoints.
          scored: if True, every step with scores is saved, so that the best can be kept.
        """
        self.run, self.every, self.scored = run, Every(every, at_end=True), scored
        self.first = 0

    def due(self, now: Now) -> bool:
        """Returns True every `every` steps, at the last step, and before the run ends early."""
        scored = self.scored and bool(now.scores)
        ends = now.stop or bool(now.alarm)
        return self.every(now) or ends or scored or self._exists(now)

    def __call__(self, now: Now) -> None:
        if not self._exists(now):
            self.run.save(metrics=metrics.flat(now.scores), stopped=now.stop)
        elif not now.stop:
            self.run.checkpointer.measured(now.step, metrics.flat(now.scores))

    def _exists(self, now: Now) -> bool:
        """Returns whether this step has a checkpoint, which lacks the scores."""
        return now.resumed or self.first == now.step


class SaveFirst:
    """Saves before the actions that only measure, so that no kill or fault of theirs costs steps.

    A run that is resumed from such a checkpoint begins with these actions, unless `Save` noted that
    they were done.
    """

    interruptible = False

    def __init__(self, save: Save, measuring: Sequence[Action]):
        """Makes the action.

        Args:
          save: the last action of the step.
          measuring: the actions between this one and `save`.
        """
        self._save, self._measuring = save, measuring

    def due(self, now: Now) -> bool:
        """Returns True where `Save` will be due, if something is measured before it."""
        due = [action for action in self._measuring if action.due(now)]
        scored = self._save.scored and any(isinstance(action, Evaluate) for action in due)
        return bool(due) and not now.resumed and (self._save.every(now) or scored)

    def __call__(self, now: Now) -> None:
        self._save.run.save(metrics={}, stopped=True)
        self._save.first = now.step


@contextlib.contextmanager
def _only_measures(what: str, now: Now) -> Iterator[None]:
    """Turns an error of the block into a warning: the training goes on.

    Of several processes, one that fails alone may leave the others waiting for it in the block.
    Only what all of them meet, a file that is broken or missing, lets them go on.
    """
    try:
        yield
    except Exception as error:
        common = isinstance(error, (ValueError, OSError)) and not distributed.of_a_peer(error)
        if jax.process_count() > 1 and not common:
            raise
        told = f"{error}" or type(error).__name__
        logging.warning("step %d: no %s, the training goes on: %s", now.step, what, told)
        logging.debug("traceback", exc_info=True)


def _write_pictures(run: Run, now: Now, pictures: Mapping[str, np.ndarray]) -> None:
    if pictures:
        run.writer.write_images(now.step, pictures)
