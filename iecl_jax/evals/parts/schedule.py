"""Schedules the evaluations of a training, and lets those of one step share their features."""

import types
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import logging

from iecl_jax import console, data
from iecl_jax.config import kinds
from iecl_jax.config.section import Section, key
from iecl_jax.evals.parts import overview, results
from iecl_jax.evals.parts.encoder import SplitEncoder, Unlabelled
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.methods import Method
from iecl_jax.train import actions
from iecl_jax.train.loop import Now
from iecl_jax.train.state import TrainState

_WHEN = ("every", "end")


class Every(Section):
    """The settings of an evaluation that by default runs at intervals."""

    when = key("every", _WHEN, "every: each eval.every_epochs and at the end; end: only at the end")


class AtEnd(Section):
    """The settings of an evaluation that by default only runs at the end."""

    when = key("end", _WHEN, "end: only at the end; every: also each eval.every_epochs")


class Scheduled:
    """An evaluation with its schedule in a training.

    Attributes:
      name: the stem of the evaluation's file.
      every_steps: steps between two evaluations; 0 = only at the end.
    """

    def __init__(
        self,
        name: str,
        module: types.ModuleType,
        settings: Any,
        every_steps: int,
        moments: "_Moments",
    ):
        self.name, self._module, self._settings = name, module, settings
        self.every_steps = every_steps if settings.when == "every" else 0
        self._moments = moments

    def due(self, now: Now) -> bool:
        """Returns whether the evaluation is due now."""
        return actions.Every(self.every_steps, at_end=True)(now)

    def check(self, subject: Subject) -> None:
        """Raises ValueError if the settings do not fit the data set."""
        if hasattr(self._module, "check"):
            self._module.check(subject, self._settings)

    def __call__(self, state: TrainState, now: Now) -> dict[str, Any]:
        """Returns the results: numbers, also in nested dictionaries and lists."""
        try:
            with console.waiting(f"Evaluating: {self.name}"):
                found = self._module.measure(self._moments.subject(state, now), self._settings)
        except Unlabelled as error:
            logging.warning("No %s: %s", self.name, error)
            return {}
        finally:
            self._moments.leave(self, now)
        if told := results.told(getattr(self._module, "RESULTS", {}), found):
            console.say(f"Step {now.step:,}: {', '.join(told)}")
        return found


class _Moments:
    """Holds one Subject for all evaluations of a step, and drops its features after the last."""

    def __init__(self, subject: Subject):
        self._before = subject
        self._subject: Subject | None = None
        self.evaluations: Sequence[Scheduled] = ()

    def subject(self, state: TrainState, now: Now) -> Subject:
        if self._subject is None:
            self._subject = self._before.at(state.params, state.method_state)
        return self._subject

    def leave(self, evaluation: Scheduled, now: Now) -> None:
        due = [each for each in self.evaluations if each.due(now)]
        if evaluation is due[-1]:
            self._subject = None


def scheduled(
    config: ml_collections.ConfigDict, method: Method, split: data.Split, run_dir: str
) -> list[Scheduled]:
    """Returns the evaluations of `eval.names`, in that order. Call them in that order, too.

    An evaluation that needs labels or test images is left out, with a warning, if the data set has
    none. With `eval.pictures`, `parts.overview` comes last and draws from the same features.

    Args:
      config: the pretraining config.
      method: the method of that config.
      split: the images of the pretraining.
      run_dir: folder to which evaluations may write files.

    Raises:
      ValueError: a setting does not fit the data set.
    """
    encoder = SplitEncoder(config, method, split)
    subject = Subject(config, method, encoder, run_dir, config.seed)
    moments = _Moments(subject)
    epoch = max(1, len(split) // config.train.batch_size)
    found, left_out = [], dict[str, list[str]]()
    for name in config.eval.names:
        module, stem = kinds.load("evaluation", name, key="eval.names"), kinds.stem(name)
        settings, every = config.eval[stem], config.eval.every_epochs * epoch
        evaluation = Scheduled(stem, module, settings, every, moments)
        try:
            evaluation.check(subject)
        except Unlabelled as error:
            left_out.setdefault(str(error), []).append(stem)
        except ValueError as error:
            prefix = "eval." if str(error).startswith(f"{stem}.") else ""
            raise ValueError(f"{prefix}{error}") from error
        else:
            found.append(evaluation)
    if config.eval.pictures:
        at_end = ml_collections.ConfigDict({"when": "end"})
        found.append(Scheduled("pictures", overview, at_end, 0, moments))
    for reason, names in left_out.items():
        logging.warning("No %s: %s", ", ".join(names), reason)
    moments.evaluations = found
    return found
