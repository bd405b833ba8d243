"""Kills a run again and again, and checks that it ends as if it had never been killed.

    PYTHONPATH=. python tests/kill_and_resume.py --kills=3

Trains on generated images, once left alone and once stopped by signals at random moments and
started again by the same command. The final states must be equal bit for bit, and the log must have
every step once.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from iecl_jax.run import event_files, names
from iecl_jax.run.preemption import EXIT_CODE

ROOT = pathlib.Path(__file__).parent.parent


class Command(NamedTuple):
    """What is trained: a config FILE[:VARIANT], and how many steps of it."""

    config: str
    steps: int
    every_steps: int  # from one checkpoint to the next

    def words(self, workdir: pathlib.Path) -> list[str]:
        return [
            *(sys.executable, "-m", "iecl_jax.main", f"--config={self.config}"),
            f"--workdir={workdir}",
            f"--config.train.num_steps={self.steps}",
            "--config.train.log_every_steps=10",
            f"--config.checkpoint.every_steps={self.every_steps}",
            "--config.eval.every_epochs=0",
        ]


def start(workdir: pathlib.Path, command: Command) -> subprocess.Popen:
    # The tests compile without optimizations, which so many steps would not pay for.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(workdir.parent / "compiled"))
    workdir.parent.mkdir(exist_ok=True)
    with (workdir.parent / "log.txt").open("a") as log:
        return subprocess.Popen(command.words(workdir), cwd=ROOT, env=environment, stderr=log)


def finish(workdir: pathlib.Path, command: Command) -> dict:
    process = start(workdir, command)
    if process.wait():
        log = (workdir.parent / "log.txt").read_text()
        raise RuntimeError(f"the run failed with code {process.returncode}:\n{log[-2000:]}")
    return json.loads((workdir / "results.json").read_text())


def newest_checkpoint(workdir: pathlib.Path) -> int:
    names = [path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return max(map(int, names), default=0)


def interrupt(workdir: pathlib.Path, command: Command, number: int, wait: float) -> int | None:
    """Starts the run and sends it the signal `wait` seconds after it has saved something new.

    Returns the newest checkpoint's step, or None if the run ended before the signal.
    """
    before = newest_checkpoint(workdir)
    process = start(workdir, command)
    while newest_checkpoint(workdir) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(wait)
    process.send_signal(number)
    process.wait()
    if process.returncode == 0:
        return None
    expected = EXIT_CODE if number == signal.SIGTERM else -number
    if process.returncode != expected:
        raise RuntimeError(f"expected exit code {expected}, got {process.returncode}")
    return newest_checkpoint(workdir)


def state_digests(workdir: pathlib.Path, step: int) -> dict[str, str]:
    """SHA-256 of params, method_state, opt_state and step in the last checkpoint."""
    seal = workdir / "checkpoints" / str(step) / "seal" / "metadata"
    return json.loads(seal.read_text())["fields"]


def logged_steps(workdir: pathlib.Path) -> tuple[list[int], list[int]]:
    """The steps of the loss in metrics.jsonl and in TensorBoard's files, as they stand there."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    drawn = [
        event.step
        for path in sorted(workdir.glob(names.EVENT_FILES))
        for event, _ in event_files.records(path)
        for value in event.summary.value
        if value.tag == names.number_in_tensorboard("train/loss")
    ]
    return [line["step"] for line in lines if "train/loss" in line], drawn


def check(folder: pathlib.Path, command: Command, *, signals: list[int], seed: int) -> list[str]:
    """Raises if the runs differ; returns a line for each thing that happened."""
    rng = random.Random(seed)
    alone = finish(folder / "alone", command)
    lines = [f"left alone: {alone['params_digest']}"]
    workdir = folder / "interrupted"
    for number in signals:
        reached = interrupt(workdir, command, number, wait=rng.uniform(0, 0.1))
        name = signal.Signals(number).name
        if reached is None:
            raise RuntimeError(f"{name} came too late: ask for more than {command.steps} steps")
        lines.append(f"{name}: saved up to step {reached}")
    resumed = finish(workdir, command)
    lines.append(f"interrupted: {resumed['params_digest']}")
    saved = [state_digests(folder / name, command.steps) for name in ("alone", "interrupted")]
    if resumed["params_digest"] != alone["params_digest"] or saved[0] != saved[1]:
        raise RuntimeError("the runs differ:\n" + "\n".join(lines))
    steps, drawn = logged_steps(workdir)
    whole = set(logged_steps(folder / "alone")[0]) <= set(steps)
    if not whole or steps != sorted(set(steps)) or drawn != steps:
        raise RuntimeError(f"the log has gaps or doubles: {steps}; in TensorBoard {drawn}")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--config", default="configs/imagenet_r50.py:100,smoke")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for line in check(
            pathlib.Path(directory),
            Command(arguments.config, arguments.steps, every_steps=7),
            signals=[signal.SIGKILL] * arguments.kills,
            seed=arguments.seed,
        ):
            print(line)
    print("equal, bit for bit")
