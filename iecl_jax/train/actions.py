"""The actions between two training steps: log, diagnose, evaluate, draw, save.

Each action knows when it is due (`due`) and does its work when called. `train.loop` calls them.
"""

import dataclasses
import datetime
import numbers
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import ml_collections
import numpy as np
from absl import logging

from iecl_jax.run import distributed
from iecl_jax.run.metrics import write_scalars
from iecl_jax.train.loop import Now, Run


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
    """Logs the progress. When it is due, the loop also writes the metrics, as before any action."""

    interruptible = False

    def __init__(self, run: Run, every: int):
        self._run, self._every = run, Every(every)

    def due(self, now: Now) -> bool:
        """Returns True at every multiple of `every` steps."""
        return self._every(now)

    def __call__(self, now: Now) -> None:
        """Logs a line with the step, the speed, and the time left at that speed."""
        speed, left = self._run.log.images_per_second, self._run.total - now.step
        told = f"step {now.step} of {self._run.total}"
        if speed:
            seconds = round(left * self._run.batch_size / speed)
            told += f", {speed:.1f} images/s, {datetime.timedelta(seconds=seconds)} to go"
        logging.info("%s", told)


class Diagnose:
    """Runs the diagnostics, warns of a collapse, and sets the alarm that ends a collapsed run."""

    interruptible = True

    def __init__(
        self,
        run: Run,
        diagnostics: Diagnostics,
        settings: ml_collections.ConfigDict,
        milestone: Every,
    ):
        """Makes the action.

        Args:
          run: the run to measure.
          diagnostics: makes the measurement.
          settings: `config.diagnostics`.
          milestone: when the values of every layer and the pictures are also written.
        """
        self._run, self._diagnostics, self._milestone = run, diagnostics, milestone
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
        found = self._diagnostics(self._run.state)
        now.diagnosis = found.values
        write_scalars(self._run.writer, "diagnostics", now.step, found.values)
        if self._milestone(now):
            for group, layers in found.layers.items():
                write_scalars(self._run.writer, group, now.step, layers)
            _write_pictures(self._run, now, found.pictures(now.step))
        alarms = self._diagnostics.alarms(found.values)
        for alarm in alarms:
            logging.warning("step %d: %s", now.step, alarm)
        # Processes measure separately; rounding must not make only some of them stop.
        if self._stop_on_collapse and not now.last and distributed.agreed(bool(alarms)):
            now.alarm = alarms[0] if alarms else "Process 0 measured a collapse."


class Evaluate:
    """Runs one evaluation when it is due and writes its scores."""

    interruptible = True

    def __init__(self, run: Run, evaluation: Evaluation):
        self._run, self._evaluation = run, evaluation

    def due(self, now: Now) -> bool:
        """Returns True when the evaluation is due, unless the run is about to stop."""
        return not now.stop and self._evaluation.due(now)

    def __call__(self, now: Now) -> None:
        scores = self._evaluation(self._run.state, now)
        now.scores |= scores
        if plain := _plain_numbers(scores):
            write_scalars(self._run.writer, "eval", now.step, plain)


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
        _write_pictures(self._run, now, self._draw(now.step, self._run.state))


class Save:
    """Saves a checkpoint with the scores of its step. It must be the last of the actions."""

    interruptible = False

    def __init__(self, run: Run, every: int, *, scored: bool = False):
        """Makes the action.

        Args:
          run: the run to save.
          every: steps between two checkpoints.
          scored: if True, every step with scores is saved, so that the best can be kept.
        """
        self._run, self._every, self._scored = run, Every(every, at_end=True), scored

    def due(self, now: Now) -> bool:
        """Returns True every `every` steps, at the last step, and before the run ends early."""
        scored = self._scored and bool(now.scores)
        return self._every(now) or now.stop or bool(now.alarm) or scored

    def __call__(self, now: Now) -> None:
        self._run.save(metrics=_plain_numbers(now.scores), stopped=now.stop)


def _write_pictures(run: Run, now: Now, pictures: Mapping[str, np.ndarray]) -> None:
    if pictures:
        run.writer.write_images(now.step, {name: image[None] for name, image in pictures.items()})


def _plain_numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(x) for name, x in scores.items() if isinstance(x, numbers.Real)}
