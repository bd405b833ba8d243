"""Runs of `python -m iecl_jax.main`, each a process of its own, for the commands that start many.

What is finished is not started again. SIGTERM and Ctrl-C reach every run as SIGTERM, so that it
saves a checkpoint, and no further one is started.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from iecl_jax import config as config_lib
from iecl_jax.run import workdir
from iecl_jax.run.preemption import EXIT_CODE

MAIN = ("-m", "iecl_jax.main")
Job = TypeVar("Job")


class Run(NamedTuple):
    """One call of `iecl_jax.main`.

    Attributes:
      config: FILE[:VARIANT].
      workdir: where it lives.
      flags: its other flags, mostly `--config.KEY=VALUE`.
    """

    config: str
    workdir: Path
    flags: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """The command after the name of the interpreter."""
        return [*MAIN, f"--config={self.config}", *self.flags, f"--workdir={self.workdir}"]


def is_finished(run: Run) -> bool:
    """True if the run has its results, under the config that its flags give now.

    False too where the files do not tell: `iecl_jax.main` knows then, and says what is wrong.
    """
    if not (run.workdir / "results.json").exists():
        return False
    try:
        starts = json.loads((run.workdir / "provenance.json").read_text())
        unchanged = not any(start["config_changes"] for start in starts)
        now = config_lib.load(run.config, run.flags)
        return unchanged and workdir.read_config(run.workdir) == now
    except (ValueError, LookupError, TypeError, OSError):
        return False


class Runner:
    """Starts commands as child processes, while entered; they end when this process is told to.

    Attributes:
      stopped: True once a signal to stop has come; what is started later does nothing.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, processes: int, compiled: Path):
        """`processes` commands run side by side and share the compiled programs in `compiled`."""
        self.stopped = False
        self._children: set[subprocess.Popen] = set()
        self._pool = ThreadPoolExecutor(processes)
        self._environment = {"JAX_COMPILATION_CACHE_DIR": str(compiled.absolute())}
        self._environment |= dict(os.environ)

    def __enter__(self) -> "Runner":
        self._previous: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._stop)
            for number in self._SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, error: Any, *_: Any) -> None:
        if error is not None:
            self._stop()
        self._pool.shutdown()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _stop(self, *_: Any) -> None:
        self.stopped = True
        for child in tuple(self._children):
            child.terminate()

    def map(self, function: Callable[[Job], bool], jobs: Iterable[Job]) -> list[bool]:
        """`function` of every job, in threads of their own; results in the order of the jobs."""
        return list(self._pool.map(function, jobs))

    def call(self, arguments: Sequence[str], log: Path) -> int:
        """Runs `python ARGUMENTS`, adding what it prints to LOG; returns its exit code."""
        if self.stopped:
            return EXIT_CODE
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as console:
            # A session of its own keeps Ctrl-C from it, which would end it without a checkpoint.
            child = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
            self._children.add(child)
            if self.stopped:
                child.terminate()
            code = child.wait()
        self._children.discard(child)
        return code

    def complete(self, name: str, run: Run) -> bool:
        """Runs or resumes a run, its console in WORKDIR/log.txt, and prints how it ended.

        True if it is finished, now or since earlier. The seed is no part of a compiled program, so
        the seeds of a setting share them.
        """
        if self.stopped:
            return False
        if is_finished(run):
            print(f"{name}: finished before", flush=True)
            return True
        log = run.workdir / "log.txt"
        code = self.call(run.arguments(), log)
        self.tell(name, code, log)
        return code == 0

    def tell(self, name: str, code: int, log: Path) -> None:
        """Prints how a command ended that wrote to LOG."""
        if code == 0:
            said = "done"
        elif self.stopped or code == EXIT_CODE:
            said = "stopped"
        else:
            said = f"failed with exit code {code}, see {log}"
        print(f"{name}: {said}", flush=True)

    def leave(self, succeeded: Sequence[bool]) -> None:
        """Ends this process unless all is done: code 75 after a signal, else 1 and a sentence."""
        if self.stopped:
            print("stopped; start again to resume.", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if not all(succeeded):
            sys.exit(f"error: {succeeded.count(False)} runs failed; start again to resume them.")
