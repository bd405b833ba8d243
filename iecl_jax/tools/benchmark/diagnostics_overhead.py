"""Compares the time of one diagnostics measurement with that of the training steps.

    python -m iecl_jax.tools.benchmark.diagnostics_overhead --config=configs/resnet18.py:cifar10

Steps and measurements alternate in one process, on generated images, after both are compiled. The
printed share is that of one measurement in the time of `diagnostics.every_steps` steps and the
measurement.
"""

import statistics
import time

import jax

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.evals.parts.diagnostics import Diagnostics
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import parts, timing


def measure(config, *, rounds: int, steps: int) -> list[tuple[float, float]]:
    """Returns (seconds per step, seconds per measurement) for each round of `steps` steps."""
    config.data.update({"name": "generated", "cache": "host"})
    split = data.open_split(config.data, "pretrain")
    config.diagnostics.num_images = min(config.diagnostics.num_images, len(split))
    timed = parts.TimedStep(config)
    diagnose = Diagnostics(config, split)

    def seconds_to_diagnose():
        begun = time.perf_counter()
        diagnose(timed.state)
        return time.perf_counter() - begun

    seconds_to_diagnose()  # compiles
    contestants = [lambda: statistics.mean(timed.durations(steps)) / 1e3, seconds_to_diagnose]
    return list(zip(*timing.alternate(contestants, rounds), strict=True))


def main() -> None:
    """Prints the seconds, and the median and range of the share over the rounds."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", required=True)
    timing.add_flags(parser, rounds=3, steps=2)
    args = parser.parse()
    config = config_lib.load(args.config, args.overrides)
    every = config.diagnostics.every_steps
    results = measure(config, rounds=args.rounds, steps=args.steps)
    shares = [100 * taken / (taken + every * step) for step, taken in results]
    for step, taken in results:
        print(f"step {step:.3f} s, measurement {taken:.3f} s")
    print(
        f"every {every} steps: {statistics.median(shares):.2f} % of the time "
        f"({min(shares):.2f} to {max(shares):.2f}), {jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    main()
