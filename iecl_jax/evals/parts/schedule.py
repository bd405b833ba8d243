"""The evaluations that run during training, each at its moments, and what they share there."""

import types
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import logging

from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.config.section import Section, key
from iecl_jax.evals.parts.encoder import SplitEncoder, Unlabelled
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.methods import Method
from iecl_jax.train import actions
from iecl_jax.train.loop import Now
from iecl_jax.train.state import TrainState

_WHEN = ("every", "end")


class Every(Section):
    """Of an evaluation that runs at intervals."""

    when = key("every", _WHEN, "every: each eval.every_epochs and at the end; end: at the end")


class AtEnd(Section):
    """Of an evaluation that runs at the end alone."""

    when = key("end", _WHEN, "end: at the end; every: each eval.every_epochs too")


class Scheduled:
    """An evaluation at its moments of a training.

    Attributes:
      name: the stem of its file.
      every_steps: steps between two moments; 0 = at the end alone.
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
        """Whether it is to run now."""
        return actions.Every(self.every_steps, at_end=True)(now)

    def check(self, subject: Subject) -> None:
        """Raises ValueError where the settings do not fit the data set."""
        if hasattr(self._module, "check"):
            self._module.check(subject, self._settings)

    def __call__(self, state: TrainState, now: Now) -> dict[str, Any]:
        """What it measures; numbers, which may stand in nested dictionaries and lists."""
        try:
            return self._module.measure(self._moments.subject(state, now), self._settings)
        except Unlabelled as error:
            logging.warning("No %s: %s", self.name, error)
            return {}
        finally:
            self._moments.leave(self, now)


class _Moments:
    """One subject for the evaluations of one moment, whose features go after the last of them."""

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
    """The evaluations of `eval.names`, in that order, to be called in it.

    One that needs labels which the data set lacks is left out, with a warning.

    Args:
      config: of the pretraining.
      method: of that config.
      split: the images that it trains on.
      run_dir: where evaluations leave files.

    Raises:
      ValueError: a setting does not fit the data set.
    """
    encoder = SplitEncoder(config, method, split)
    subject = Subject(config, method, encoder, run_dir, config.seed)
    moments = _Moments(subject)
    epoch = max(1, len(split) // config.train.batch_size)
    found = []
    for name in config.eval.names:
        module, stem = kinds.load("evaluation", name, key="eval.names"), kinds.stem(name)
        settings, every = config.eval[stem], config.eval.every_epochs * epoch
        evaluation = Scheduled(stem, module, settings, every, moments)
        try:
            evaluation.check(subject)
        except Unlabelled as error:
            logging.warning("No %s: %s", stem, error)
        except ValueError as error:
            prefix = "eval." if str(error).startswith(f"{stem}.") else ""
            raise ValueError(f"{prefix}{error}") from error
        else:
            found.append(evaluation)
    moments.evaluations = found
    return found
