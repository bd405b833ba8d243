"""Time per step of `train.pretrain` against the bare pmapped step on the same data.

    python -m iecl_jax.tools.benchmark.loop_overhead --config=configs/quickstart.py

Runs the real loop. After each logging interval the same compiled step is timed alone, on batches of
the same data that are on the device already, so that both share the machine's mood. Compilation,
evaluation and checkpoints are left out of both.
"""

import argparse
import statistics
import tempfile
import time

import jax

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.train import loop as train


def measure(config, *, steps: int, rounds: int) -> list[tuple[float, float]]:
    """[(loop, bare)] in milliseconds a step, for each interval of `steps` steps but the first."""
    config.train.update({"log_every_steps": steps, "num_steps": steps * (rounds + 1)})
    config.schedule.warmup_epochs = 0.0
    config.eval.update({"every_epochs": 0, "labels_per_class": 0})
    config.checkpoint.every_steps = 10**9
    results, captured = [], {}
    build = train.build

    def capturing_build(*args, **kwargs):
        captured["experiment"] = build(*args, **kwargs)
        return captured["experiment"]

    class TimedLog(train.MetricLog):
        def write(self, newest_checkpoint):
            super().write(newest_checkpoint)
            loop = config.train.batch_size / self.images_per_second
            results.append((1e3 * loop, 1e3 * time_bare()))
            self.restart_clock()

    def time_bare():
        step = captured["experiment"].step
        began = time.perf_counter()
        for batch in seen:
            captured["state"], metrics = step(captured["state"], batch)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / steps

    split = data.open_split(config.data, "pretrain")
    with data.TrainBatches(config, split) as batches:
        seen = [next(batches) for _ in range(steps)]
    captured["state"] = build(
        config,
        total_steps=config.train.num_steps,
        steps_per_epoch=len(split) // config.train.batch_size,
        num_classes=split.num_classes,
    ).create_state()
    original = train.MetricLog
    train.build, train.MetricLog = capturing_build, TimedLog
    try:
        with tempfile.TemporaryDirectory() as run_dir:
            train.pretrain(config, run_dir)
    finally:
        train.build, train.MetricLog = build, original
    return results[1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    settings = config_lib.load(arguments.config)
    settings.data.dir = arguments.data_dir
    pairs = measure(settings, steps=arguments.steps, rounds=arguments.rounds)
    for loop, bare in pairs:
        print(f"loop {loop:8.2f} ms    bare step {bare:8.2f} ms    ratio {loop / bare:.3f}")
    ratios = [loop / bare for loop, bare in pairs]
    print(f"median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")
