"""What is done between two steps: each action says when it is due, and does it."""

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
    """now -> whether it is after a multiple of `steps` (0: none) or, with `at_end`, the last."""

    steps: int
    at_end: bool = False

    def __call__(self, now: Now) -> bool:
        return (self.at_end and now.last) or (self.steps > 0 and now.step % self.steps == 0)


class Evaluation(Protocol):
    """A measure of a state that knows its own schedule; see `evals`."""

    def due(self, now: Now) -> bool:
        """Whether it is to be measured now."""

    def __call__(self, state: Any, now: Now) -> Mapping[str, Any]:
        """Names to numbers, or to tables of them."""


class Diagnosis(Protocol):
    """What diagnostics found."""

    @property
    def values(self) -> dict[str, float]:
        """Name -> number."""

    @property
    def layers(self) -> dict[str, dict[str, float]]:
        """Group -> {layer: number}."""

    def pictures(self, step: int) -> Mapping[str, np.ndarray]:
        """Names to pictures uint8 [h, w, 3]."""


class Diagnostics(Protocol):
    """state -> Diagnosis; see `evals.diagnostics`."""

    def __call__(self, state: Any) -> Diagnosis:
        """Measures the state."""

    def alarms(self, values: dict[str, float]) -> list[str]:
        """A sentence for each of a diagnosis' values that is beyond its line."""


class Log:
    """Writes the metrics (the loop has done so before any action) and says how far the run is."""

    interruptible = False

    def __init__(self, run: Run, every: int):
        self._run, self._every = run, Every(every)

    def due(self, now: Now) -> bool:
        """At every multiple of `every` steps."""
        return self._every(now)

    def __call__(self, now: Now) -> None:
        """One line: step, speed, and how long the steps that are left take at that speed."""
        speed, left = self._run.log.images_per_second, self._run.total - now.step
        told = f"step {now.step} of {self._run.total}"
        if speed:
            seconds = round(left * self._run.batch_size / speed)
            told += f", {speed:.1f} images/s, {datetime.timedelta(seconds=seconds)} to go"
        logging.info("%s", told)


class Diagnose:
    """Measures what the method claims, warns, and gives the alarm that ends a collapsed run."""

    interruptible = True

    def __init__(
        self,
        run: Run,
        diagnostics: Diagnostics,
        settings: ml_collections.ConfigDict,
        milestone: Every,
    ):
        """Args: settings: `config.diagnostics`; milestone: when each layer is written too."""
        self._run, self._diagnostics, self._milestone = run, diagnostics, milestone
        self._every, self._stop_on_collapse = Every(settings.every_steps), settings.stop_on_collapse

    def due(self, now: Now) -> bool:
        """Every `diagnostics.every_steps` steps, and at milestones.

        Not where a run goes on: it would meet the alarm that has just ended it.
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
        if self._stop_on_collapse and not now.last and distributed.agreed(bool(alarms)):
            now.alarm = alarms[0] if alarms else "Process 0 measured a collapse."


class Evaluate:
    """Takes one evaluation when it is due."""

    interruptible = True

    def __init__(self, run: Run, evaluation: Evaluation):
        self._run, self._evaluation = run, evaluation

    def due(self, now: Now) -> bool:
        """When the evaluation says so, unless the run is to stop."""
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
        """Args: draw: (step, state) -> names to pictures uint8 [h, w, 3]."""
        self._run, self._draw, self._milestone = run, draw, milestone

    def due(self, now: Now) -> bool:
        """At milestones, unless the run is to stop."""
        return not now.stop and self._milestone(now)

    def __call__(self, now: Now) -> None:
        _write_pictures(self._run, now, self._draw(now.step, self._run.state))


class Save:
    """Saves a checkpoint with the scores of its step. The last of the actions."""

    interruptible = False

    def __init__(self, run: Run, every: int, *, scored: bool = False):
        """Args: scored: whether every step that has scores is saved, so that the best is kept."""
        self._run, self._every, self._scored = run, Every(every, at_end=True), scored

    def due(self, now: Now) -> bool:
        """Every so many steps, at the end, and before the run ends for another reason."""
        scored = self._scored and bool(now.scores)
        return self._every(now) or now.stop or bool(now.alarm) or scored

    def __call__(self, now: Now) -> None:
        self._run.save(metrics=_plain_numbers(now.scores), stopped=now.stop)


def _write_pictures(run: Run, now: Now, pictures: Mapping[str, np.ndarray]) -> None:
    if pictures:
        run.writer.write_images(now.step, {name: image[None] for name, image in pictures.items()})


def _plain_numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(x) for name, x in scores.items() if isinstance(x, numbers.Real)}
