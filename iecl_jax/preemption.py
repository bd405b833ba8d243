"""Schedulers stop jobs with SIGTERM: note it, save, and leave with a code that they requeue on."""

import signal

EXIT_CODE = 75  # EX_TEMPFAIL: try again


class Preemption:
    """While entered, SIGTERM sets `requested` instead of ending the process."""

    def __enter__(self) -> "Preemption":
        self.requested = False
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_) -> None:
        self.requested = True

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._previous)
