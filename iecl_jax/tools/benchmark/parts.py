"""The parts of training that are timed separately: step, augmentation, input pipeline and loop.

Each class has `durations(count)`, which returns the milliseconds per batch of `count` calls (see
`timing.durations`). A call of the step or the loop takes `train.steps_per_call` batches; a call of
the other parts takes one.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import data
from iecl_jax.data import augment
from iecl_jax.models import collectives
from iecl_jax.run.metrics import MetricLog
from iecl_jax.run.writer import Writer
from iecl_jax.tools.benchmark import program, timing
from iecl_jax.train.step import AXIS

TRACED_STEPS = 3  # of a profile


def random_batch(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns a batch of random pixels and labels on the devices, see `program.batch_shapes`."""
    rng = np.random.default_rng(0)
    shapes = program.batch_shapes(config, jax.device_count())
    batch = {
        "image": jax.tree.map(lambda x: rng.integers(0, 256, x.shape, np.uint8), shapes["image"]),
        "label": rng.integers(0, program.NUM_CLASSES, shapes["label"].shape, np.int32),
        "index": rng.integers(0, program.NUM_IMAGES, shapes["index"].shape, np.int32),
    }
    mesh = Mesh(np.array(jax.devices()), ("device",))
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("device")))


class TimedStep:
    """Times the training step of a config, called as in training, on a batch on the devices.

    Attributes:
      config: the pretraining config, without warm-up.
      prepared: the config with its experiment.
      batches: the batches of a call: the same `random_batch`, `train.steps_per_call` times.
      state: the TrainState after the steps taken so far.
      compile_seconds: time of the first call, which includes tracing and compilation.
    """

    def __init__(
        self, config: ml_collections.ConfigDict, num_classes: int = program.NUM_CLASSES
    ) -> None:
        """Takes the first steps; raises ValueError if this is no valid pretraining config."""
        self.prepared = program.prepare(config, jax.device_count(), num_classes)
        self.config = self.prepared.config
        self.batches = [random_batch(self.config)] * self.config.train.steps_per_call
        self.state = jax.block_until_ready(self.prepared.experiment.create_state())
        begun = time.perf_counter()
        jax.block_until_ready((self.take(self.batches), self.state))
        self.compile_seconds = time.perf_counter() - begun

    def take(self, batches: Sequence[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
        """Takes a step for each batch and returns their metrics, without waiting for the device."""
        self.state, metrics = self.prepared.experiment.steps(self.state, batches)
        return metrics

    def durations(self, count: int) -> list[float]:
        """Returns the milliseconds per step of each of `count` calls."""
        times = timing.durations(lambda: self.take(self.batches), jax.block_until_ready, count)
        return [time_ / len(self.batches) for time_ in times]


class TimedAugmentation:
    """Times only the augmentation of the step, compiled for all devices, on a batch on them."""

    def __init__(self, config: ml_collections.ConfigDict):
        """Compiles the augmentation; raises ValueError if `config.augment` is invalid."""
        make_views = augment.make_augment(
            config.augment, config.data.image_size, *data.statistics(config.data)
        )
        seed = np.uint32(config.seed)

        def of_device(step, batch, seed):
            places = collectives.places(len(batch["label"]), AXIS)
            keys = augment.image_keys(augment.run_key(seed), step, places)
            return make_views(keys, batch["image"])

        mapped = jax.pmap(of_device, axis_name=AXIS, in_axes=(None, 0, None))
        batch = random_batch(config)
        self._augment = lambda: mapped(np.int32(0), batch, seed)
        jax.block_until_ready(self._augment())

    def durations(self, count: int) -> list[float]:
        """Returns the milliseconds that the views of each of `count` batches take."""
        return timing.durations(self._augment, jax.block_until_ready, count)


class TimedInput:
    """Times only `data.TrainBatches`: reading, decoding, and putting batches on the devices.

    Each call of `durations` starts the pipeline at the position where the previous call stopped,
    and stops it at the end, so that its threads do not disturb other measurements.
    """

    def __init__(self, config: ml_collections.ConfigDict, split: data.Split):
        """Takes a config that fits `split`, see `images.open_images`."""
        self._config, self._split, self._position = config, split, 0

    def durations(self, count: int) -> list[float]:
        """Returns the milliseconds of each of `count` batches, after the prefetched ones."""
        with data.TrainBatches(self._config, self._split, start=self._position) as batches:
            for _ in range(2 * self._config.data.prefetch + 1):
                next(batches)
            times = timing.durations(lambda: next(batches), jax.block_until_ready, count)
            self._position = batches.position
        return times


class TimedLoop:
    """Times the step with batches from the input pipeline, and checks the metrics as training does.

    The metrics are fetched every `train.log_every_steps` steps, and at least once per call of
    `durations`. They are not written: in training, another thread writes them. Evaluations,
    diagnostics and checkpoints are left out.
    """

    def __init__(self, config: ml_collections.ConfigDict, split: data.Split, step: TimedStep):
        """Takes a step that was made for the same config and for the classes of `split`."""
        self._config, self._split, self._step, self._position = config, split, step, 0
        steps_per_epoch = len(split) // config.train.batch_size
        self._log = MetricLog(Writer(), steps_per_epoch, config.train.batch_size)

    def durations(self, count: int) -> list[float]:
        """Returns the mean milliseconds per step between two fetches of the metrics.

        It makes about `count` calls. The first one, which may compile, is not timed.
        """
        per_call = self._config.train.steps_per_call
        between = min(count, max(1, self._config.train.log_every_steps // per_call))
        stamps = []
        with data.TrainBatches(self._config, self._split, start=self._position) as batches:
            for calls in [1, *[between] * (count // between)]:
                for _ in range(calls):
                    self._take(batches)
                self._log.write()  # waits for the device
                stamps.append(time.perf_counter())
            self._position = batches.position
        return [gap / (between * per_call) for gap in timing.gaps(stamps)]

    def _take(self, batches: data.TrainBatches) -> dict[str, jax.Array]:
        begin, per_call = batches.position + 1, self._config.train.steps_per_call
        metrics = self._step.take([next(batches) for _ in range(per_call)])
        self._log.add(range(begin, begin + per_call), metrics)
        return metrics


def peak_memory() -> dict[str, Any]:
    """Returns the most bytes that any device had in use since the process started.

    Returns:
      {"peak_memory_bytes": the number, "peak_memory_from": "device"}; {} if the backend does not
      count them.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return {"peak_memory_bytes": max(peaks), "peak_memory_from": "device"} if peaks else {}


def trace(timed: Sequence[TimedStep], directory: Path, steps: int) -> None:
    """Writes a profile of `steps` calls of each step, for TensorBoard and Perfetto."""
    with jax.profiler.trace(str(directory), create_perfetto_trace=True):
        for step in timed:
            for number in range(steps):
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    jax.block_until_ready(step.take(step.batches))
