"""Stops a run cleanly on SIGTERM or Ctrl-C, with an exit code that schedulers can requeue on."""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
_QUESTIONS = itertools.count(1)  # Numbers the calls of `due`; equal on all processes.


class Preemption:
    """A context in which SIGTERM or Ctrl-C asks the loop to stop instead of ending the process.

    A second Ctrl-C ends the process at once, like `kill -9`: checkpoints are whole or absent.

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
