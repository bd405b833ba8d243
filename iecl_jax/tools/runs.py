"""Runs `python -m iecl_jax.main` many times, each run in its own process.

Finished runs are not started again. On SIGTERM or Ctrl-C, every run gets SIGTERM, so that it saves
a checkpoint, and no further run starts.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.config import files, own_files
from iecl_jax.run import workdir
from iecl_jax.run.preemption import EXIT_CODE

MAIN = ("-m", "iecl_jax.main")
Job = TypeVar("Job")
TIMED_OUT = 124  # as timeout(1) says it
GRACE = 10.0  # seconds between SIGTERM and SIGKILL for a command whose time is up
_TAIL = 4096  # bytes at the end of a log in which its last line is


class Run(NamedTuple):
    """One call of `iecl_jax.main`.

    Attributes:
      config: FILE[:VARIANT].
      workdir: the folder of the run.
      flags: its other flags, mostly `--config.KEY=VALUE`.
      trusts: whether it runs the Python files that its checkpoint names.
    """

    config: str
    workdir: Path
    flags: tuple[str, ...] = ()
    trusts: bool = False

    def arguments(self) -> list[str]:
        """Returns the command without the name of the interpreter."""
        trust = [own_files.TRUST_FLAG] if self.trusts else []
        return [*MAIN, f"--config={self.config}", *self.flags, f"--workdir={self.workdir}", *trust]


def is_finished(run: Run) -> bool:
    """Returns whether the run has results, and all its starts had the config that it has now.

    Also returns False if the files are damaged: `iecl_jax.main` then reports what is wrong.
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
    """A context that runs commands as child processes; a signal to stop ends them too.

    Attributes:
      stopped: True after a signal to stop; commands that are called later do nothing.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, processes: int, compiled: Path):
        """Makes a runner.

        Args:
          processes: how many commands run at the same time.
          compiled: folder of the compilation cache that the commands share.
        """
        self.stopped = False
        self._children: set[subprocess.Popen] = set()
        self._logs: list[Path] = []  # of the children
        self._counting = threading.Lock()
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
        """Calls `function` for every job, in threads; returns the results in the order of jobs."""
        jobs = list(jobs)
        with console.progress("Runs", len(jobs), "finished") as shown:
            shown.note = self._under_way

            def counted(job: Job) -> bool:
                succeeded = function(job)
                with self._counting:
                    shown.update(shown.done + 1)
                return succeeded

            return list(self._pool.map(counted, jobs))

    def _under_way(self) -> str:
        """Returns what the commands that run said last."""
        logs = tuple(self._logs)
        return "; ".join(f"{'/'.join(log.parts[-3:-1])}: {last_line(log)}" for log in logs)

    def call(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> int:
        """Runs `python ARGUMENTS`, and appends its output to `log`. What it started ends with it.

        Args:
          arguments: the command without the name of the interpreter.
          log: a file; its folder is made.
          python: the interpreter.
          environment: variables in addition to those of this process.
          seconds: its time. Then it gets SIGTERM, and SIGKILL if it does not end in GRACE.

        Returns:
          Its exit code; TIMED_OUT if its time was up; EXIT_CODE, without a call, after a signal.
        """
        if self.stopped:
            return EXIT_CODE
        console.say(f"Started; its output is in {log}")
        self._logs.append(log)
        try:
            variables = self._environment | dict(environment or {})
            return self._call([python, *arguments], log, variables, seconds)
        finally:
            self._logs.remove(log)

    def _call(
        self, words: Sequence[str], log: Path, variables: Mapping[str, str], seconds: float | None
    ) -> int:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            # In its own session, the child does not get the terminal's Ctrl-C, only our SIGTERM.
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
            )
            self._children.add(child)
            if self.stopped:  # The signal came before the child was in the set.
                child.terminate()
            try:
                code = child.wait(seconds)
            except subprocess.TimeoutExpired:
                code = TIMED_OUT
                child.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(GRACE)
            with contextlib.suppress(ProcessLookupError, PermissionError):  # None is left.
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        self._children.discard(child)
        return code

    def complete(self, name: str, run: Run) -> bool:
        """Runs or resumes a run and prints how it ended. Its output goes to WORKDIR/log.txt.

        Runs that differ only in the seed share their compiled programs.

        Returns:
          True if the run is finished, now or since an earlier call.
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
        """Prints how a command with this exit code and log ended."""
        if code == 0:
            said = "done"
        elif self.stopped or code == EXIT_CODE:
            said = "stopped"
        else:
            said = f"failed: {reason(log) or f'exit code {code}'} (see {log})"
        print(f"{name}: {said}", flush=True)

    def leave(self, succeeded: Sequence[bool]) -> None:
        """Ends this process with code 75 after a signal, or 1 if a run failed; else returns."""
        if self.stopped:
            print("stopped; start again to resume.", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if not all(succeeded):
            sys.exit(f"error: {succeeded.count(False)} runs failed; start again to resume them.")


def check(runs: Iterable[Run]) -> None:
    """Raises ValueError for the first run whose config cannot be loaded, before any is started."""
    for run in runs:
        config_lib.load(run.config, run.flags)


def refuse_seed(overrides: Iterable[str]) -> None:
    """Raises ValueError if the overrides of all runs set the seed, which the runs differ in."""
    if any(key == "seed" for key, _ in files.split_overrides(list(overrides))[0]):
        raise ValueError("--config.seed would be that of every run: use --seeds.")


def reason(log: Path) -> str:
    """Returns the sentence with which a command ended, from its log; "" if there is none."""
    with contextlib.suppress(OSError):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            if line.startswith("error: "):
                return line.removeprefix("error: ").rstrip(".")
    return ""


def last_line(log: Path) -> str:
    """Returns the last line of a log that is not empty; "" if there is none yet."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""
