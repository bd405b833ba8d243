"""Measures what a training does from the command to the end of its first step.

    python -m iecl_jax.tools.benchmark.startup --config=configs/quickstart.py [--rounds=3]

Each round runs `iecl_jax.main` with the same settings in a new process and a new workdir, and ends
it after the first step. One more round comes first and fills the compilation cache; it is not
counted. The table has medians of seconds, and of the processor's seconds, which other work on the
machine changes less. Tracing runs the network's Python code, lowering turns it into XLA's program,
and the program is read from the cache, or compiled if it is too small to be kept there.
"""

import argparse
import contextlib
import json
import os
import pathlib
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

# Only light modules are imported above: a process that is measured begins with this file.
COMMAND = "import sys; from iecl_jax.tools.benchmark import startup; startup.follow(sys.argv[1:])"
PARTS = {  # the events with which JAX tells that a part of its work is done
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "reading or compiling",
    "/iecl_jax/program_read": "reading",
}
Phases = dict[str, list[float]]  # {phase: [seconds, the processor's seconds]}, in their order


class Recorder:
    """Adds up the time from mark to mark.

    Args:
      began: time.time() when this process was started.
    """

    def __init__(self, began: float):
        self.phases: Phases = {}
        self._last = began, 0.0
        self._within = ["settings, checks, images and log"]

    def mark(self, phase: str) -> None:
        """Gives the time since the last mark to a phase."""
        now = time.time(), time.process_time()
        sums = self.phases.setdefault(phase, [0.0, 0.0])
        for which in (0, 1):
            sums[which] += now[which] - self._last[which]
        self._last = now

    def of_jax(self, event: str, duration_secs: float, **_: str | int) -> None:
        """Listens to `jax.monitoring`."""
        if event in PARTS:
            self.mark(f"{self._within[-1]}: {PARTS[event]}")

    @contextlib.contextmanager
    def waiting(self, shown: Any, what: str) -> Iterator[Any]:
        """Stands for `console.waiting`, which is `shown`: each wait is a phase."""
        self.mark(self._within[-1])
        self._within.append(what)
        with shown(what) as task:
            yield task
        self.mark(self._within.pop())


def follow(words: list[str]) -> None:
    """Runs main in this process up to its first step, and writes the phases.

    Args:
      words: a file for the phases as JSON, time.time() of the start, and the arguments of main.
    """
    recorder = Recorder(float(words[1]))
    from jax import monitoring

    from iecl_jax import console
    from iecl_jax.evals.parts import jobs  # noqa: F401, which main imports
    from iecl_jax.train.loop import Run

    recorder.mark("Python and imports")
    monitoring.register_event_duration_secs_listener(recorder.of_jax)
    shown, take = console.waiting, Run.take

    def take_one(run: Run, steps: range) -> None:
        take(run, steps)
        pathlib.Path(words[0]).write_text(json.dumps(recorder.phases))
        os._exit(0)  # What the run would still write is of no use.

    console.waiting = lambda what: recorder.waiting(shown, what)
    Run.take = take_one  # type: ignore[assignment, method-assign]
    sys.argv = [sys.argv[0], *words[2:]]
    runpy.run_module("iecl_jax.main", run_name="__main__", alter_sys=True)


def start(arguments: list[str]) -> Phases:
    """Returns the phases of a training in a new process.

    Raises:
      ValueError: it ended before its first step; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "phases.json")
        words = [*arguments, f"--workdir={pathlib.Path(folder, 'run')}"]
        command = [sys.executable, "-c", COMMAND, str(file), str(time.time()), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not file.exists():
            last = done.stderr.strip().rpartition("\n")[2]
            raise ValueError(last.removeprefix("error: ") or "this job takes no training step.")
        return json.loads(file.read_text())


def medians(rounds: list[Phases]) -> Phases:
    """Returns the medians of each phase and, as "total", those of the sums."""
    sums = [
        {"total": [sum(each) for each in zip(*found.values(), strict=True)]} for found in rounds
    ]
    whole = [found | total for found, total in zip(rounds, sums, strict=True)]
    return {
        name: [statistics.median(each) for each in zip(*(found[name] for found in whole))]
        for name in whole[0]
        if all(name in found for found in whole)
    }


def parse(words: list[str]) -> argparse.Namespace:
    """Returns the arguments, with the overrides of the config in `overrides`."""
    from iecl_jax.tools import arguments

    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", required=True, help="FILE[:VARIANT] of a training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=arguments.new_file, help="also write the times to this file")
    args = parser.parse(words)
    if args.rounds < 1:
        parser.error(f"--rounds={args.rounds} must be at least 1.")
    return args


def main() -> None:
    """Prints the table. `--json` also writes the phases of each round."""
    from iecl_jax.config import own_files
    from iecl_jax.run import command_line, markdown, workdir

    args = parse(sys.argv[1:])
    with own_files.sentences():
        rounds = [
            start([f"--config={args.config}", *args.overrides]) for _ in range(args.rounds + 1)
        ]
    found = medians(rounds[1:])
    rows = [[name, *(f"{value:.2f}" for value in values)] for name, values in found.items()]
    print(markdown.table(["phase", "seconds", "processor's seconds"], rows))
    print(f"{workdir.device_description()}; {command_line.shown(command_line.typed())}")
    if args.json:
        workdir.write_atomically(args.json, json.dumps(rounds[1:], indent=2))


if __name__ == "__main__":
    main()
