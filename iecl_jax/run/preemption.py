"""Stops a run cleanly on SIGTERM or Ctrl-C, with an exit code that schedulers can requeue on."""

import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure, try again
REPEAT_SECONDS = 1.0
_TOLD = b"\nCtrl-C: saves and stops. Once more: stops at once, without saving.\n"
_QUESTIONS = itertools.count(1)  # Numbers the calls of `due`; equal on all processes.


@contextlib.contextmanager
def ending_with_its_code() -> Iterator[None]:
    """Lets SIGTERM end a whole program with EXIT_CODE, also before and after the loop.

    What is open is closed on the way, so that a start that had not begun leaves nothing. With
    EXIT_CODE the process then ends at once: in Python's own clean-up, threads of XLA or TensorFlow
    that are still at work can crash, and the exit code would be that of the crash. Several
    processes need the clean-up: it disconnects them.

    Behind the block all is written and the exit code is decided, so SIGTERM is ignored.
    """

    def leave(*_: Any) -> None:
        raise SystemExit(EXIT_CODE)

    signal.signal(signal.SIGTERM, leave)
    try:
        with _sending_again():
            yield
    except SystemExit as stop:
        if stop.code == EXIT_CODE and not jax.distributed.is_initialized():
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_CODE)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextlib.contextmanager
def _sending_again() -> Iterator[None]:
    """Sends SIGTERM again if its handler was called where Python ignores what is raised.

    Such places are the callbacks of the garbage collector, of which JAX has one, and `__del__`.
    """
    before = sys.unraisablehook

    def hook(ignored: Any) -> None:
        error = ignored.exc_value
        if isinstance(error, SystemExit) and error.code == EXIT_CODE:
            # Later, when the main thread is somewhere else.
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            before(ignored)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


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
        self._watch = _Watch()
        self._several = jax.process_count() > 1
        self._previous: dict[int, Any] = {}
        if (
            signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):  # A shell ignores it for background jobs.
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        if not self._several:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._watch.close()

    def _interrupt(self, *_) -> None:
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._note()

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


class _Watch:
    """Answers signals in a thread: Python's handlers wait while a program compiles or runs."""

    def __init__(self) -> None:
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._previous = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, args=(reading,), daemon=True)
        self._thread.start()

    def _answer(self, reading: int) -> None:
        first = 0.0
        while number := os.read(reading, 1):
            now, again = time.monotonic(), first > 0
            first = first or now
            interrupt = number[0] == signal.SIGINT
            if interrupt and not again:
                # Not `print`, in whose midst the main thread may be.
                os.write(2, _TOLD)
            elif interrupt or (number[0] == signal.SIGTERM and now - first > REPEAT_SECONDS):
                os._exit(128 + number[0])
        os.close(reading)

    def close(self) -> None:
        """Ends the thread."""
        signal.set_wakeup_fd(self._previous)
        os.close(self._writing)
        self._thread.join()
