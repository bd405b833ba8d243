"""Stops a run cleanly on SIGTERM or Ctrl-C, with an exit code that schedulers can requeue on."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
REPEAT_SECONDS = 1.0
_QUESTIONS = itertools.count(1)  # Numbers the calls of `due`; equal on all processes.


@contextlib.contextmanager
def ending_with_its_code() -> Iterator[None]:
    """Lets SIGTERM end the block with EXIT_CODE, for all that comes before and after the loop.

    What is open is closed on the way, so that a start that had not begun leaves nothing.
    """

    def leave(*_: Any) -> None:
        raise SystemExit(EXIT_CODE)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Preemption:
    """A context in which SIGTERM or Ctrl-C asks the loop to stop instead of ending the process.

    A second one ends the process at once, like `kill -9`: checkpoints are whole or absent.
    Launchers may send SIGTERM to a process and to its group, so another one within REPEAT_SECONDS
    is the same request.

    If one of several processes gets SIGTERM, all stop after the same step. In that case JAX's
    runtime catches the signal, and its processes agree on the step in the background.
    """

    def __enter__(self) -> "Preemption":
        self._noted = self._interrupts = False
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}
        if (
            signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):  # A shell ignores it for background jobs.
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._to_sigterm)
        if not self._several:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _to_sigterm(self, *_) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Not `print`: the signal may have interrupted another `print`, which is not reentrant.
        os.write(2, b"\nCtrl-C: saves and stops. Once more: stops at once, without saving.\n")
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, *_) -> None:
        if not self._noted:
            self._when = time.monotonic()
        elif time.monotonic() - self._when > REPEAT_SECONDS:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        self._noted = True
        if self._interrupts:
            self._interrupts = False
            raise SystemExit(EXIT_CODE)  # `interrupting` catches it.

    def due(self) -> bool:
        """Returns whether to stop now. Every process of a run must call it equally often."""
        if self._several and not self._noted:
            self._noted = multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))
        return self._noted

    @contextlib.contextmanager
    def interrupting(self, allowed: bool) -> Iterator[None]:
        """Lets a signal end the block at once, if `allowed`; execution continues after the block.

        Several processes always finish the block, since they do not learn of a signal at the same
        moment. If the block contains a training loop that a signal stopped (SystemExit with
        EXIT_CODE), the outer loop stops too.
        """
        self._interrupts = allowed and not self._several
        try:
            yield
        except SystemExit as error:
            if error.code != EXIT_CODE:
                raise
            self._noted = True
        finally:
            self._interrupts = False
