"""The training loop: takes steps and, between them, runs the actions that are due.

`train` is the loop, `Run` the training it moves forward, `Now` what the actions of a step share.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
from absl import logging

from iecl_jax import console
from iecl_jax.run import summaries
from iecl_jax.run.checkpoint import Checkpointer, Restored
from iecl_jax.run.continuity import Terms
from iecl_jax.run.metrics import MetricLog
from iecl_jax.run.preemption import EXIT_CODE, Preemption

_COMPILING = "Reading the first images and compiling the training step"


class CollapseError(ValueError):
    """Ends a run whose representation collapsed, if `diagnostics.stop_on_collapse` is set."""


@dataclasses.dataclass
class Now:
    """The situation after a step: its number, and what the actions have found so far.

    Attributes:
      step: number of steps taken.
      last: True at the last step.
      stop: True if a signal asks to stop; then only saving is due.
      resumed: True if no step was taken yet: the run repeats the actions that it may have skipped
        before it was interrupted or finished.
      scores: the scores of the evaluations: numbers, or tables of numbers.
      diagnosis: the values of the diagnostics.
      alarm: the sentence with which the diagnostics end the run; "" = no alarm.
    """

    step: int
    last: bool
    stop: bool = False
    resumed: bool = False
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    diagnosis: dict[str, float] = dataclasses.field(default_factory=dict)
    alarm: str = ""


class Action(Protocol):
    """An action between two steps; see `train.actions`.

    Attributes:
      interruptible: True if a signal to stop may end the action at once.
    """

    interruptible: bool

    def due(self, now: Now) -> bool:
        """Returns whether the action is due now. Has no side effects."""

    def __call__(self, now: Now) -> None:
        """Does the action, and stores in `now` what later actions need."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """A training in progress. A new Run continues from its newest checkpoint, if there is one.

    As a context it opens the batches, the log and the writer. Leaving the context, also by an
    error, finishes the current save and closes everything.

    Attributes:
      run_dir: folder of the log, see `summaries.create_writer`.
      checkpointer: the checkpoints of this run.
      state: a new state, or the template of one (see `Checkpointer.restore`); the newest
        checkpoint's replaces it. Each step donates it.
      steps: (state, batches) -> (state, metrics [at least len(batches)]).
      open_batches: called with start=position, returns a `data.TrainBatches`.
      total: number of steps of the whole training.
      steps_per_epoch, batch_size: for the log, see `MetricLog`.
      group: first part of the metrics' names, see `MetricLog`.
      terms: what the checkpoint must have in common with this start.
      title: what the run does, for the console.
      begin_epoch: (state, epoch) -> the state with which an epoch begins; None = as it is.
      step: number of steps taken.
      earlier: the checkpoint from which it continues.
      begun: time.monotonic() of its start.
      scores: the newest scores of the evaluations.
      shown: the progress on the console.

    Raises:
      ValueError: the checkpoint has more than `total` steps, or other terms.
    """

    run_dir: str
    checkpointer: Checkpointer
    state: Any
    steps: Callable[[Any, Sequence[Any]], tuple[Any, dict[str, jax.Array]]]
    open_batches: Callable[..., Any]
    total: int
    steps_per_epoch: int
    batch_size: int
    group: str = "train"
    terms: Terms = dataclasses.field(default_factory=Terms)
    title: str = "Training"
    begin_epoch: Callable[[Any, int], Any] | None = None
    step: int = 0
    earlier: Restored | None = None
    begun: float = dataclasses.field(default_factory=time.monotonic)
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    shown: console.Task = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._position, self._undone = 0, False
        self.shown = console.Task(self.title, self.total, "step")
        self.earlier = restored = self.checkpointer.restore(self.state, self.terms.check)
        if restored is None:
            return
        self.step, self.state, self._position = restored[:3]
        # A signal or a kill skips evaluations; before `measured` existed, a kill left no trace.
        self._undone = restored.stopped or self.step == self.total
        check_total(self.run_dir, self.step, self.total)
        logging.info("Resuming from step %d of %d.", self.step, self.total)

    @property
    def _earlier_facts(self) -> dict[str, Any]:
        return self.earlier.facts if self.earlier is not None else {}

    @property
    def seconds_before(self) -> float:
        """Wall time of the earlier starts, each up to its last checkpoint."""
        return self._earlier_facts.get("seconds", 0.0)

    @property
    def seconds(self) -> float:
        """Wall time of this start and of the earlier ones."""
        return time.monotonic() - self.begun + self.seconds_before

    def __enter__(self) -> "Run":
        self.checkpointer.open()
        self._batches = self.open_batches(start=self._position)
        config = self.terms.config
        self.writer = summaries.create_writer(self.run_dir, step=self.step, config=config)
        self.log = MetricLog(
            self.writer,
            self.steps_per_epoch,
            self.batch_size,
            group=self.group,
            newest_checkpoint=self.checkpointer.newest,
            last=self._earlier_facts.get("logged", {}),
        )
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failures = []
        for part in (self._batches, self.checkpointer, self.writer):
            # Closing waits for all processes, so a process that fails alone must skip it.
            if part is self.checkpointer and not _known_to_all(error):
                continue
            try:
                with console.waiting("Finishing checkpoints and log"):
                    part.close()
            except Exception as failure:
                logging.error("%s: %s", type(failure).__name__, failure)
                failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def calls(self, actions: Sequence[Action], most: int) -> Iterator[range]:
        """Yields the ranges of steps that are left, see `calls`.

        The first range is empty if the actions of the restored step may be incomplete.
        """

        def due(step: int) -> bool:
            now = Now(step, last=step == self.total)
            return self._ends_epoch(step) or any(action.due(now) for action in actions)

        left = calls(self.step, self.total, most=most, due=due)
        return itertools.chain([range(0)], left) if self._undone else left

    def take(self, steps: range) -> None:
        """Takes the given next steps in one call to the devices; an empty range does nothing."""
        if steps:
            # A checkpoint between two epochs is from before this, and every start of it does it.
            if self.begin_epoch is not None and self._ends_epoch(self.step):
                self.log.write()
                with self.log.clock_stopped():
                    self.state = self.begin_epoch(self.state, self.step // self.steps_per_epoch)
            compiles = not self.log.compiled
            with console.waiting(_COMPILING) if compiles else contextlib.nullcontext():
                self.state, metrics = self.steps(self.state, [next(self._batches) for _ in steps])
                self.log.add(steps, metrics)
            self.step = steps[-1]
            self.shown.update(self.step)

    def _ends_epoch(self, step: int) -> bool:
        return self.begin_epoch is not None and step % self.steps_per_epoch == 0

    def save(self, *, metrics: dict[str, float], stopped: bool) -> None:
        """Saves the state in the background, see `Checkpointer.save`."""
        with console.waiting("Saving a checkpoint"):
            self.writer.flush()  # A run that resumes here needs the log up to here.
            self.checkpointer.save(
                self.step,
                self.state,
                position=self._batches.position,
                metrics=metrics,
                stopped=stopped,
                facts=self.terms.facts() | {"logged": self.log.last, "seconds": self.seconds},
            )


def train(run: Run, actions: Sequence[Action], *, steps_per_call: int = 1) -> Now:
    """Takes the remaining steps and runs the actions that are due after each call.

    Args:
      run: the training.
      actions: in the order in which they run; `Save` is the last.
      steps_per_call: how many steps one call to the devices takes at most.

    Returns:
      The Now of the last step.

    Raises:
      FloatingPointError: a metric is not finite.
      CollapseError: the diagnostics set an alarm; a checkpoint is written.
      SystemExit: code 75, after SIGTERM or Ctrl-C; a checkpoint is written.
    """
    now = Now(run.step, last=run.step == run.total)
    with Preemption() as preemption, console.showing(run.shown), run:
        for steps in run.calls(actions, most=steps_per_call):
            run.take(steps)
            now = Now(run.step, run.step == run.total, preemption.due(), resumed=not steps)
            for action in actions:
                if action.due(now):
                    run.log.write()  # Raises here, before a broken state is saved.
                    with run.log.clock_stopped(), preemption.interrupting(action.interruptible):
                        action(now)
                    # A signal ended the action, so it is not complete: the resumed run repeats it.
                    now.stop |= action.interruptible and preemption.due()
            if now.alarm or now.stop:
                run.checkpointer.newest()  # Waits, so that the message below is true.
            if now.alarm:
                raise CollapseError(
                    f"step {now.step}, which is saved: {now.alarm} "
                    "diagnostics.stop_on_collapse=False would go on with a warning."
                )
            if now.stop:
                logging.warning(
                    "Stopped after step %d, which is saved: the same command goes on.", now.step
                )
                raise SystemExit(EXIT_CODE)
    return now


def check_total(run_dir: str, step: int, total: int) -> None:
    """Raises ValueError if a run has taken more steps than it is asked to take in total."""
    if step > total:
        raise ValueError(
            f"{run_dir} has trained {step} steps already, more than the {total} "
            "asked for: use another --workdir, or train longer."
        )


def calls(first: int, total: int, *, most: int, due: Callable[[int], bool]) -> Iterator[range]:
    """Yields the steps from `first` + 1 to `total` as ranges, one for each call to the devices.

    A range has `most` steps, or fewer if something is due earlier or the training ends.
    """
    begin = first + 1
    for step in range(begin, total + 1):
        if step == total or step - begin + 1 == most or due(step):
            yield range(begin, step + 1)
            begin = step + 1


def _known_to_all(error: BaseException | None) -> bool:
    """Returns whether all processes leave the loop for the same reason at the same step."""
    together = (FloatingPointError, CollapseError, SystemExit)
    return error is None or jax.process_count() == 1 or isinstance(error, together)
