"""The training loop: steps, and between them the actions that are due."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
from absl import logging

from iecl_jax.run import summaries
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.run.metrics import MetricLog
from iecl_jax.run.preemption import EXIT_CODE, Preemption


class CollapseError(ValueError):
    """The representation has collapsed, and `diagnostics.stop_on_collapse` is set."""


@dataclasses.dataclass
class Now:
    """A moment of a run: which step was taken last, and what has come of it so far.

    Attributes:
      step: steps taken.
      last: whether it is the last one.
      stop: whether a signal asks to stop; only a save is due then.
      resumed: whether the run goes on from here, after a signal or its end left something undone.
      scores: of the evaluations, numbers or tables of them.
      diagnosis: of the diagnostics.
      alarm: a sentence of the diagnostics for which the run ends; "" without.
    """

    step: int
    last: bool
    stop: bool = False
    resumed: bool = False
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    diagnosis: dict[str, float] = dataclasses.field(default_factory=dict)
    alarm: str = ""


class Action(Protocol):
    """What is done between two steps; see `train.actions`.

    Attributes:
      interruptible: whether a signal to stop ends it at once.
    """

    interruptible: bool

    def due(self, now: Now) -> bool:
        """Whether to do it now; changes nothing."""

    def __call__(self, now: Now) -> None:
        """Does it, and notes in `now` what others shall know."""


@dataclasses.dataclass(kw_only=True)
class Run:
    """A training under way; made, it goes on where its newest checkpoint is, if there is one.

    While entered it has batches, a log and a writer. Left, for whatever reason, it finishes the
    save under way and closes all of them.

    Attributes:
      run_dir: for the event files.
      checkpointer: of this run alone.
      state: a new one, replaced by the newest checkpoint's; donated by each step.
      steps: (state, batches) -> (state, metrics [at least len(batches)]).
      open_batches: (start=position) -> `data.TrainBatches`.
      total: steps from beginning to end.
      steps_per_epoch, batch_size: of the log.
      group: of the metrics' names, see `MetricLog`.
      step: steps taken.

    Raises:
      ValueError: it has taken more than `total` steps already.
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
    step: int = 0

    def __post_init__(self) -> None:
        self._position, self._undone = 0, False
        restored = self.checkpointer.restore(self.state)
        if restored is None:
            return
        self.step, self.state, self._position, stopped = restored
        self._undone = stopped or self.step == self.total
        logging.info("Resuming from step %d of %d.", self.step, self.total)
        if self.step > self.total:
            raise ValueError(
                f"{self.run_dir} has trained {self.step} steps already, more than the {self.total} "
                "asked for: use another --workdir, or train longer."
            )

    def __enter__(self) -> "Run":
        self._batches = self.open_batches(start=self._position)
        self.writer = summaries.create_writer(self.run_dir)
        self.log = MetricLog(
            self.writer,
            self.steps_per_epoch,
            self.batch_size,
            group=self.group,
            newest_checkpoint=self.checkpointer.newest,
        )
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        failures = []
        for part in (self._batches, self.checkpointer, self.writer):
            # Of several processes one that fails alone must not wait for the others.
            if part is self.checkpointer and not _known_to_all(error):
                continue
            try:
                part.close()
            except Exception as failure:
                logging.error("%s: %s", type(failure).__name__, failure)
                failures.append(failure)
        if failures and error is None:
            raise failures[0]

    def calls(self, actions: Sequence[Action], most: int) -> Iterator[range]:
        """The steps that are left, see `calls`; first none, where something was left undone."""

        def due(step: int) -> bool:
            now = Now(step, last=step == self.total)
            return any(action.due(now) for action in actions)

        left = calls(self.step, self.total, most=most, due=due)
        return itertools.chain([range(0)], left) if self._undone else left

    def take(self, steps: range) -> None:
        """Takes the next steps, in one call of the devices."""
        if steps:
            self.state, metrics = self.steps(self.state, [next(self._batches) for _ in steps])
            self.step = steps[-1]
            self.log.add(steps, metrics)

    def save(self, *, metrics: dict[str, float], stopped: bool) -> None:
        """Saves the state in the background, see `Checkpointer.save`."""
        self.checkpointer.save(
            self.step,
            self.state,
            position=self._batches.position,
            metrics=metrics,
            stopped=stopped,
        )


def train(run: Run, actions: Sequence[Action], *, steps_per_call: int = 1) -> Now:
    """Takes the steps that are left and, after each, the actions that are due; saving comes last.

    Returns:
      The last moment.

    Raises:
      FloatingPointError: a metric is not finite.
      CollapseError: the diagnostics gave an alarm; what was due is saved.
      SystemExit: with code 75 after SIGTERM or Ctrl-C, once a checkpoint is written.
    """
    now = Now(run.step, last=run.step == run.total)
    with Preemption() as preemption, run:
        for steps in run.calls(actions, most=steps_per_call):
            run.take(steps)
            now = Now(run.step, run.step == run.total, preemption.due(), resumed=not steps)
            for action in actions:
                if action.due(now):
                    run.log.write()  # what is not finite is neither measured nor saved
                    with run.log.clock_stopped(), preemption.interrupting(action.interruptible):
                        action(now)
                    now.stop |= action.interruptible and preemption.due()
            if now.alarm or now.stop:
                run.checkpointer.newest()  # is whole before a sentence says so
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


def calls(first: int, total: int, *, most: int, due: Callable[[int], bool]) -> Iterator[range]:
    """The steps after `first` up to `total`, as the ranges that go to the device in one call.

    A call takes `most` steps, or fewer if something is due before or the training ends.
    """
    begin = first + 1
    for step in range(begin, total + 1):
        if step == total or step - begin + 1 == most or due(step):
            yield range(begin, step + 1)
            begin = step + 1


def _known_to_all(error: BaseException | None) -> bool:
    """Whether every process of the run leaves for the same reason at the same step."""
    together = (FloatingPointError, CollapseError, SystemExit)
    return error is None or jax.process_count() == 1 or isinstance(error, together)
