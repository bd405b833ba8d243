"""Takes measurements in turn until the budget is spent, and keeps each figure as it is known."""

import datetime
import functools
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax.run import command_line
from iecl_jax.run.workdir import plain
from iecl_jax.tools import runs
from iecl_jax.tools.benchmark.gpu.figures import FAILED, LEFT_OUT, MEASURED, Figures

MARGIN = runs.GRACE + 2  # seconds that the end of a command whose time is up may take


class Measurement(NamedTuple):
    """A command, and how its figure is read from what it wrote.

    Attributes:
      name: of the figure.
      arguments: the command without the name of the interpreter.
      read: (path of its log) -> the figure's value.
      most: seconds after which the command is ended.
      least: if fewer seconds are left, the command is not begun.
      python: the interpreter.
      xla_flags: flags of XLA in addition to those of the environment.
      missing: why it cannot be measured here; "" if it can.
    """

    name: str
    arguments: tuple[str, ...]
    read: Callable[[Path], Any]
    most: float
    least: float = 30.0
    python: str = sys.executable
    xla_flags: str = ""
    missing: str = ""

    def environment(self) -> dict[str, str]:
        """Returns the variables that it sets."""
        flags = f"{os.environ.get('XLA_FLAGS', '')} {self.xla_flags}".strip()
        return {"XLA_FLAGS": flags} if self.xla_flags else {}

    def command(self) -> str:
        """Returns the line for a shell."""
        shown = command_line.shown([self.python, *self.arguments])
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items()]
        return " ".join([*words, shown])


class Session:
    """One call of the command."""

    def __init__(
        self,
        folder: Path,
        figures: Figures,
        runner: runs.Runner,
        left: Callable[[], float],
        facts: Mapping[str, Any],
    ):
        """Makes a session.

        Args:
          folder: gets the logs.
          figures: what is known, and gets what will be.
          runner: runs the commands.
          left: returns the seconds that are left of the budget.
          facts: what each figure says of where it was measured.
        """
        self._folder, self._figures, self._runner = folder, figures, runner
        self._left, self._facts = left, facts

    def left(self) -> float:
        """Returns the seconds that a command begun now may take."""
        return max(0.0, self._left() - MARGIN)

    def take(self, each: Measurement) -> None:
        """Measures, unless there is a figure, or it cannot be, or there is too little time."""
        if self._figures.measured(each.name):
            print(f"{each.name}: measured before", flush=True)
            return
        if self._runner.stopped:
            return
        left = self.left()
        if each.missing:
            self._add(each, LEFT_OUT, why=each.missing)
        elif left < each.least:
            self._add(each, LEFT_OUT, why=f"{left:.0f} s left, too few to begin")
        else:
            self._measure(each, min(each.most, left))

    def _measure(self, each: Measurement, seconds: float) -> None:
        log, begun = self._folder / "logs" / f"{each.name}.txt", time.monotonic()
        log.unlink(missing_ok=True)  # An earlier call's.
        code = self._runner.call(
            each.arguments,
            log,
            python=each.python,
            environment=each.environment(),
            seconds=seconds,
        )
        add = functools.partial(self._add, each, seconds=time.monotonic() - begun)
        if code == 0:
            try:
                add(MEASURED, value=plain(each.read(log)))
            except (ValueError, LookupError, TypeError, OSError) as error:
                add(FAILED, why=f"its output cannot be read ({type(error).__name__}: {error})")
        elif self._runner.stopped:
            add(LEFT_OUT, why="stopped by a signal")
        else:
            over = code == runs.TIMED_OUT
            how = f"not finished after {seconds:.0f} s" if over else f"exit code {code}"
            add(FAILED, why=f"{how}: {runs.reason(log) or runs.last_line(log)}")

    def _add(
        self, each: Measurement, state: str, *, why: str = "", value: Any = None, seconds: float = 0
    ) -> None:
        figure = {
            "name": each.name,
            "state": state,
            "why": why,
            "value": value,
            "command": each.command(),
            "seconds": round(seconds, 1),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._figures.add(figure | dict(self._facts))
        said = f"{state}, {why}" if why else state
        print(f"{each.name}: {said} ({seconds:.0f} s; {self.left():.0f} s left)", flush=True)
