"""Time of one measurement of the diagnostics against that of the training steps between two.

    PYTHONPATH=. python tests/diagnostics_overhead.py --config=configs/resnet18.py:cifar10

Steps and measurements alternate in one process on generated images, both compiled before; the share
is that of `diagnostics.every_steps` steps and one measurement.
"""

import argparse
import runpy
import statistics
import time

import jax
import numpy as np

from iecl_jax import data, train
from iecl_jax.diagnostics import Diagnostics


def measure(config, *, rounds: int, steps: int) -> list[tuple[float, float]]:
    """[(seconds a step, seconds a measurement)] for each round of `steps` steps."""
    config.data.update({"name": "generated", "cache": "host"})
    config.schedule.warmup_epochs = 0.0
    split = data.open_split(config.data, "pretrain")
    count = len(split)
    experiment = train.build(config, total_steps=10**6, steps_per_epoch=10**5, num_classes=10)
    size, devices = config.data.image_size, jax.local_device_count()
    batch = {
        "image": np.random.default_rng(0).integers(
            0, 256, (devices, config.train.batch_size // devices, size, size, 3), np.uint8
        ),
        "label": np.zeros((devices, config.train.batch_size // devices), np.int32),
    }
    config.diagnostics.num_images = min(config.diagnostics.num_images, count)
    diagnose = Diagnostics(config, split)
    state, _ = experiment.step(experiment.create_state(), batch)
    diagnose(state)
    results = []
    for _ in range(rounds):
        begun = time.monotonic()
        for _ in range(steps):
            state, metrics = experiment.step(state, batch)
        jax.block_until_ready(metrics)
        stepped = time.monotonic()
        diagnose(state)
        results.append(((stepped - begun) / steps, time.monotonic() - stepped))
    return results


def main() -> None:
    """Prints seconds and the share of the time, median and range over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    args = parser.parse_args()
    path, _, variant = args.config.partition(":")
    config = runpy.run_path(path)["get_config"](*filter(None, [variant]))
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
