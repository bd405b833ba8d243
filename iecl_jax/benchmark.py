"""python -m iecl_jax.benchmark --config=A [--config=B ...] [--rounds=5] [--steps=10] [--json=FILE]

Times the training step of several configs (FILE[:VARIANT]) in one process, on the devices that JAX
finds, and prints a Markdown table. What follows `--` overrides a key of every config
(`-- --config.train.batch_size=64`).

Timed is the pmapped step with its augmentation, on one batch of random images that is on the
devices already: no input pipeline, no logging, no evaluation. After a first step of each, which
compiles, the configs take `steps` steps in turn; every other round goes backwards (A B, B A, ...),
so that a machine that grows slower favours none. A ratio is that of two times of the same round.
"""

import argparse
import functools
import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import config as config_lib
from iecl_jax import workdir
from iecl_jax.experiment import build

NUM_CLASSES = 10  # of the random labels, which only the online probe sees


class TimedStep:
    """The compiled training step of a config, its state, and a batch on the devices.

    Attributes:
      config: the pretraining config, without warm-up.
      state: the TrainState after the steps taken so far.
      compile_seconds: of the first step, tracing and compilation included.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        """Takes the first step; ValueError if the config is impossible or not for pretraining."""
        if config.job != "pretrain":
            raise ValueError(f"job={config.job!r} has no training step: name a pretraining config.")
        self.config = config.copy_and_resolve_references()
        self.config.schedule.warmup_epochs = 0.0
        config_lib.check(self.config, jax.device_count())
        experiment = build(
            self.config, total_steps=10**6, steps_per_epoch=10**5, num_classes=NUM_CLASSES
        )
        self._step = experiment.step
        self._batch = _random_batch(config.train.batch_size, config.data.image_size)
        self.state = jax.block_until_ready(experiment.create_state())
        self.compile_seconds = self.milliseconds(1) / 1e3

    def milliseconds(self, steps: int) -> float:
        """Takes `steps` steps, waits for the last one, and returns milliseconds a step."""
        begun = time.perf_counter()
        for _ in range(steps):
            self.state, metrics = self._step(self.state, self._batch)
        jax.block_until_ready((self.state, metrics))
        return 1e3 * (time.perf_counter() - begun) / steps


def _random_batch(batch_size: int, image_size: int) -> dict[str, jax.Array]:
    """{"image": uint8 [D, b, S, S, 3], "label": int32 [D, b]}, a shard on each device."""
    rng = np.random.default_rng(0)
    devices = np.array(jax.devices())
    shape = (len(devices), batch_size // len(devices))
    batch = {
        "image": rng.integers(0, 256, (*shape, image_size, image_size, 3), np.uint8),
        "label": rng.integers(0, NUM_CLASSES, shape, np.int32),
    }
    return jax.device_put(batch, NamedSharding(Mesh(devices, ("device",)), PartitionSpec("device")))


def alternate(contestants: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Calls each contestant once a round, every other round in reverse order.

    Returns:
      What they returned, [contestant][round].
    """
    results: list[list[float]] = [[] for _ in contestants]
    order = list(range(len(contestants)))
    for _ in range(rounds):
        for i in order:
            results[i].append(contestants[i]())
        order.reverse()
    return results


def ratios(times: Sequence[float], first: Sequence[float]) -> list[float]:
    """times / first, round by round."""
    return [time_ / other for time_, other in zip(times, first, strict=True)]


def spread(values: Sequence[float], form: str) -> str:
    """`MEDIAN (MIN to MAX)`, each formatted by `form`, such as "{:.1f}"."""
    median, low, high = (form.format(f(values)) for f in (statistics.median, min, max))
    return f"{median} ({low} to {high})"


def summarize(
    timed: Sequence[TimedStep],
    names: Sequence[str],
    times: Sequence[Sequence[float]],
    *,
    steps: int,
    overrides: Sequence[str],
) -> list[dict[str, Any]]:
    """One flat JSON object for each config.

    Args:
      timed: after their steps; of each config and compile_seconds are read.
      names: FILE[:VARIANT] of each.
      times: [config][round], milliseconds a step.
      steps: how many steps each of them is the mean of.
      overrides: those of `config.load`.

    Returns:
      config, overrides, batch_size, image_size, num_devices, compile_seconds; step_ms (one a
      round) and its median; images_per_second at that median, over all devices; ratio_to_first (one
      a round, to the first config) and its median; rounds, steps, device, versions and git.
    """
    results = []
    for each, name, milliseconds in zip(timed, names, times, strict=True):
        median = statistics.median(milliseconds)
        to_first = ratios(milliseconds, times[0])
        results.append(
            {
                "config": name,
                "overrides": list(overrides),
                "batch_size": each.config.train.batch_size,
                "image_size": each.config.data.image_size,
                "num_devices": jax.device_count(),
                "compile_seconds": each.compile_seconds,
                "step_ms_median": median,
                "step_ms": list(milliseconds),
                "images_per_second": 1e3 * each.config.train.batch_size / median,
                "ratio_to_first_median": statistics.median(to_first),
                "ratio_to_first": to_first,
                "rounds": len(milliseconds),
                "steps": steps,
                "device": workdir.device_description(),
                "versions": workdir.versions(),
                "git": workdir.git_state(),
            }
        )
    return results


def format_table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown of what `summarize` returns: a row a config, medians and ranges over the rounds."""
    lines = [
        "| config | batch | ms a step | images/s | ratio to the first |",
        "|---|" + "---:|" * 4,
    ]
    for i, result in enumerate(results):
        cells = (
            result["config"],
            str(result["batch_size"]),
            spread(result["step_ms"], "{:.1f}"),
            f"{result['images_per_second']:.1f}",
            spread(result["ratio_to_first"], "{:.3f}") if i else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_json(path: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes the object of a single config, or the list of several, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = results if len(results) > 1 else results[0]
    workdir.write_atomically(path, json.dumps(written, indent=2))


def main(argv: Sequence[str] | None = None) -> None:
    """Times the configs that the command line names, and prints the table."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", required=True, help="FILE[:VARIANT]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each config in a round")
    parser.add_argument("--json", type=Path, help="where to write the results too")
    parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE, after --")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.steps < 1:
        parser.error(f"--rounds={args.rounds} and --steps={args.steps} must be at least 1.")
    try:
        configs = [config_lib.load(name, args.overrides) for name in args.config]
        timed = [TimedStep(config) for config in configs]
    except ValueError as error:
        sys.exit(f"error: {error}")
    contestants = [functools.partial(each.milliseconds, args.steps) for each in timed]
    times = alternate(contestants, args.rounds)
    results = summarize(timed, args.config, times, steps=args.steps, overrides=args.overrides)
    if args.json:
        write_json(args.json, results)
    print(format_table(results))
    installed = [f"{name} {version}" for name, version in workdir.versions().items() if version]
    print(f"{workdir.device_description()}; {', '.join(installed)}")
    print(shlex.join(["python", "-m", "iecl_jax.benchmark", *argv]))


if __name__ == "__main__":
    main()
