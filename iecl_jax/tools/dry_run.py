"""Tells what a pretraining needs and how long it takes, before it is started.

    python -m iecl_jax.main --config=FILE[:VARIANT] --dry_run

It opens the images, compiles the step, takes a few steps with batches of the run's own images, and
forgets them. It makes no workdir and writes nothing but the compilation cache. Evaluations,
diagnostics and galleries are not included, neither in the memory nor in the time.
"""

import contextlib
import datetime
import math
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections

from iecl_jax import console, data
from iecl_jax.config import kinds
from iecl_jax.data import caching, memory
from iecl_jax.run import markdown
from iecl_jax.tools.benchmark import program, timing
from iecl_jax.train import pretraining, starting

TIMED_CALLS = 8  # after the batches that were decoded in advance
PATIENCE = 60.0  # seconds of timed steps; slow steps are fewer, but 3 at least


class Need(NamedTuple):
    """What the run needs of something, and how much of it is there.

    Attributes:
      what: what is needed.
      where: whose it is.
      needed, there: bytes; `there` is None if nobody knows.
      way_out: what to do if there is too little.
    """

    what: str
    where: str
    needed: int
    there: int | None
    way_out: str

    @property
    def lacking(self) -> bool:
        """Whether there is too little."""
        return self.there is not None and self.needed > self.there

    def sentence(self) -> str:
        """Says that there is too little, and the way out."""
        return (
            f"{self.where} has {_size(self.there or 0)} free, but the run needs "
            f"{_size(self.needed)} for {self.what}: {self.way_out}."
        )

    def row(self) -> list[str]:
        """Returns a row of the table."""
        there = "" if self.there is None else f" of {_size(self.there)} free"
        mark = ": DOES NOT FIT" if self.lacking else ""
        return [f"{self.what}, {self.where}", f"{_size(self.needed)}{there}{mark}"]


class Timed(NamedTuple):
    """Seconds of the first call, which may compile, and of a step after it."""

    first: float
    step: float


def run(config: ml_collections.ConfigDict, run_dir: str) -> None:
    """Prints what the pretraining of a config in `run_dir` needs and how long it takes.

    Raises:
      ValueError: the config is no pretraining, is invalid, or needs more memory or disk than there
        is. The figures are printed before.
    """
    if config.job != "pretrain":
        raise ValueError(f"--dry_run is for a pretraining: {_instead(config)}.")
    available = memory.free_of_host()  # before the images are cached
    task = pretraining.prepare(config)
    starting.read(config, run_dir)  # What is wrong with its file is said here.
    state = task.experiment.state_shapes()
    needs = [_disk(task, state, run_dir)]
    cached = _cached_bytes(task)
    if available is not None and cached > available:
        needs.append(_host(cached, available))
        rows = _facts(task, state)
    else:
        rows = _facts(task, state)
        with contextlib.ExitStack() as stack:
            with console.waiting("Reading the first batch"):
                batches = stack.enter_context(data.TrainBatches(config, task.split))
                batch = next(batches)
            with console.waiting("Compiling the step"):
                needs += _memory(task, state, batch, available)
            if not any(need.lacking for need in needs[1:]):
                with console.waiting("Taking steps, to time them"):
                    rows += _duration(task, _time(task, batches))
    lacking = [need.sentence() for need in needs if need.lacking]
    if jax.process_index() == 0:
        rows += [need.row() for need in needs]
        console.show(markdown.table(["dry run", ""], rows, text=2))
        console.show(f"Nothing was started: without --dry_run the run is in {run_dir}.")
    if lacking:
        raise ValueError(" ".join(lacking))


def _instead(config: ml_collections.ConfigDict) -> str:
    """Says what a job that is no pretraining does, or what measures it if it trains."""
    if "num_steps" not in config.get(kinds.stem(config.job), {}):
        return f"job={config.job!r} evaluates a checkpoint"
    return (
        f"the FLOPs, memory and time of a step of job={config.job!r} are measured by "
        "python -m iecl_jax.tools.benchmark.voc with the same --config"
    )


def device_memory() -> int | None:
    """Returns the bytes that JAX may take of each accelerator; None if the backend has no limit."""
    limits = map(memory.of_device, jax.local_devices())
    return min((limit for limit in limits if limit), default=None)


def free_disk(folder: Path) -> int:
    """Returns the free bytes of the disk on which a folder lies or will lie."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free


def _facts(task: pretraining.Pretraining, state: Any) -> list[list[str]]:
    config, devices = task.config, jax.device_count()
    counts = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
        for name, tree in state.params.items()
    }
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    kind = f"{devices} {jax.devices()[0].device_kind}"
    length = f"{task.total_steps:,} steps of {config.train.batch_size} images"
    return [
        ["parameters", f"{sum(counts.values()):,} ({parts})"],
        ["images", f"{len(task.split):,} of {config.data.name}"],
        ["length", f"{length}, {task.steps_per_epoch:,} an epoch"],
        ["devices", f"{kind}, {config.train.precision}"],
    ]


def _memory(
    task: pretraining.Pretraining, state: Any, batch: Any, available: int | None
) -> list[Need]:
    """Compiles the step for batches like this one, and returns what it needs of the memories."""
    config = task.config
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    compiled = task.experiment.compiled(state, [shapes])
    of_step = program.memory(compiled)["memory_total_bytes"]
    local, cached = jax.local_device_count(), _cached_bytes(task)
    ahead = (config.data.prefetch + 1) * program.num_bytes(batch) // jax.device_count()
    of_images = cached if caching.chosen(config.data.cache, task.split) == "device" else 0
    on_device = of_step + ahead + of_images
    # A checkpoint is copied before it is written; decoded batches wait in the host's memory too.
    on_host = cached + program.num_bytes(state) + ahead * local
    if _on_cpu():
        return [_host(on_host + local * on_device, available)]
    way_out = (
        "lower train.batch_size, use more devices, or see docs/gpus.md for what needs less memory"
    )
    device = Need("memory", "each device", on_device, device_memory(), way_out)
    return [device, _host(on_host, available)]


def _on_cpu() -> bool:
    """Whether the devices are processors, whose memory is that of the host."""
    return jax.devices()[0].platform == "cpu"


def _host(needed: int, available: int | None) -> Need:
    way_out = "lower train.batch_size, use data.cache=none, or a machine with more memory"
    return Need("memory", "this machine", needed, available, way_out)


def _cached_bytes(task: pretraining.Pretraining) -> int:
    """Returns the bytes of the decoded images that are kept; 0 without a cache."""
    kept = caching.chosen(task.config.data.cache, task.split) != "none"
    return caching.num_bytes(task.split) if kept else 0


def _disk(task: pretraining.Pretraining, state: Any, run_dir: str) -> Need:
    """Returns what the checkpoints need, with one more while it is written."""
    settings, total = task.config.checkpoint, task.total_steps
    forever = total // settings.keep_every_steps if settings.keep_every_steps else 0
    saved = math.ceil(total / settings.every_steps) + (settings.keep_best > 0)
    at_once = min(settings.keep + settings.keep_best + forever + 1, saved + 1)
    size = program.num_bytes(state)
    what = f"{at_once:,} checkpoints of {_size(size)}"
    way_out = "use a --workdir on another disk, or keep fewer (checkpoint.keep, keep_every_steps)"
    folder = Path(run_dir).absolute()
    return Need(what, "the disk of the workdir", at_once * size, free_disk(folder), way_out)


def _time(task: pretraining.Pretraining, batches: Iterator[Any]) -> Timed:
    """Takes steps with the next batches."""
    config, experiment = task.config, task.experiment
    state, per_call = experiment.create_state(), config.train.steps_per_call

    def call() -> Any:
        nonlocal state
        state, metrics = experiment.steps(state, [next(batches) for _ in range(per_call)])
        return metrics

    def seconds() -> float:
        begun = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - begun

    try:
        first, second = seconds(), seconds()
        # The first batches were decoded in advance: only later ones show how fast images are read.
        ahead = math.ceil(2 * config.data.prefetch / per_call)
        count = max(3, min(ahead + TIMED_CALLS, int(PATIENCE / second)))
        times = timing.durations(call, jax.block_until_ready, count)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ValueError(
            "the memory of a device does not suffice for a step, beside what else is in use: "
            "lower train.batch_size, or use more devices."
        ) from error
    return Timed(first, statistics.mean(times[min(ahead, count - 3) :]) / 1e3 / per_call)


def _duration(task: pretraining.Pretraining, timed: Timed) -> list[list[str]]:
    seconds = timed.first + timed.step * task.total_steps
    try:
        end = f"{datetime.datetime.now() + datetime.timedelta(seconds=seconds):%a %d %b %Y, %H:%M}"
    except OverflowError:
        end = "no day"
    return [
        ["first step", f"{timed.first:.1f} s, with compilation or a read from its cache"],
        ["a step", f"{timed.step:.3g} s, {task.config.train.batch_size / timed.step:.1f} images/s"],
        ["all steps", f"{console.duration(seconds)}; begun now, they end on {end}"],
        ["evaluations, diagnostics, galleries", "not included"],
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
