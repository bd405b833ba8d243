"""Schedulers stop jobs with SIGTERM: note it, save, and leave with a code that they requeue on."""

import contextlib
import itertools
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL: try again
_QUESTIONS = itertools.count(1)  # of this process; every process of a run asks the same ones


class Preemption:
    """While entered, SIGTERM or Ctrl-C asks the loop to stop instead of ending the process.

    A second Ctrl-C ends it at once; what is on the disk is then as whole as after `kill -9`.

    Of several processes, all stop after the same step when any of them got SIGTERM. JAX notes it
    there, from the start of its runtime, and agrees on the step in the background.
    """

    def __enter__(self) -> "Preemption":
        self._noted = self._interrupts = False
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as in the background of a shell
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._to_sigterm)
        if not self._several:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _to_sigterm(self, *_) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Not `print`: the signal may have come in the middle of another one.
        os.write(2, b"\nCtrl-C: saves and stops. Once more: stops at once, without saving.\n")
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, *_) -> None:
        self._noted = True
        if self._interrupts:
            self._interrupts = False
            raise SystemExit(EXIT_CODE)  # caught by `interrupting`

    def due(self) -> bool:
        """Whether to stop now; of several processes, every one asks equally often."""
        if self._several and not self._noted:
            self._noted = multihost_utils.reached_preemption_sync_point(next(_QUESTIONS))
        return self._noted

    @contextlib.contextmanager
    def interrupting(self, allowed: bool) -> Iterator[None]:
        """Where `allowed`, a signal ends the block at once, and what follows it goes on.

        Several processes leave it to its end: they do not know of a signal at the same moment. A
        loop inside that a signal stopped, with EXIT_CODE, stops the one outside too.
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
