"""Schedulers stop jobs with SIGTERM: note it, save, and leave with a code that they requeue on."""

import signal

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL: try again


class Preemption:
    """While entered, SIGTERM asks the loop to stop instead of ending the process.

    Of several processes, all stop after the same step when any of them got SIGTERM. JAX notes it
    there, from the start of its runtime, and agrees on the step in the background.
    """

    def __enter__(self) -> "Preemption":
        self._noted, self._calls = False, 0
        self._several = jax.process_count() > 1
        if not self._several:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_) -> None:
        self._noted = True

    def due(self) -> bool:
        """Whether to stop after this step; every process asks exactly once a step."""
        self._calls += 1
        if self._several:
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._noted

    def __exit__(self, *_) -> None:
        if not self._several:
            signal.signal(signal.SIGTERM, self._previous)
