"""Collects the metrics of each step, checks that they are finite, and writes their means."""

import contextlib
import numbers
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from iecl_jax.run.writer import Writer

_MOST_OF_A_TABLE = 50  # numbers


class MetricLog:
    """Keeps each step's metrics on the device and writes their means over an interval.

    Fetching a metric waits for the device. Metrics are fetched once per interval, so that the steps
    between two writes run without waiting.

    Attributes:
      last: the values written last, also by an earlier start; {} before the first write.
      compiled: whether a step was taken, so that the next ones need no compilation.
      images_per_second: speed over the newest interval without a compilation; 0 before the first.
    """

    def __init__(
        self,
        writer: Writer,
        steps_per_epoch: int,
        batch_size: int,
        *,
        group: str = "train",
        newest_checkpoint: Callable[[], int | None] = lambda: None,
        last: Mapping[str, float] | None = None,
    ):
        """Makes a log that writes metrics as GROUP/NAME.

        Args:
          writer: receives the numbers.
          steps_per_epoch: converts a step to the logged epoch.
          batch_size: images of a step, over all devices.
          group: the first part of every name.
          newest_checkpoint: returns the newest checkpoint's step, or None; for the error message
            about a metric that is not finite.
          last: the values that the run wrote last before it was resumed.
        """
        self._writer, self._steps_per_epoch = writer, steps_per_epoch
        self._batch_size, self._group = batch_size, group
        self._newest_checkpoint = newest_checkpoint
        self._pending: list[tuple[range, dict[str, jax.Array]]] = []
        self._clock, self._timed_steps = 0.0, 0
        self.compiled = False
        self.last = dict(last or {})
        self.images_per_second = self.last.get("images_per_second", 0.0)

    def add(self, steps: range, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics [len(steps) or more] that a call of `Experiment.steps` returned.

        Waits for the device only in the first call, whose time includes the compilation.
        """
        self._pending.append((steps, metrics))
        self._timed_steps += len(steps)
        if not self.compiled:  # The speed excludes the compilation.
            jax.block_until_ready(metrics)
            self.compiled = True
            self._restart_clock()

    def _restart_clock(self) -> None:
        self._clock, self._timed_steps = time.monotonic(), 0

    @contextlib.contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Excludes the block from the speed. Call `write` before it."""
        try:
            yield
        finally:
            self._restart_clock()

    def write(self) -> None:
        """Waits for the device, checks the metrics of every new step, and writes their means.

        Raises:
          FloatingPointError: a metric is not finite. The message names the step, the metric and the
            newest checkpoint.
        """
        if not self._pending:
            return
        steps = [step for taken, _ in self._pending for step in taken]
        fetched = jax.device_get([metrics for _, metrics in self._pending])
        rows = [
            {name: values[i] for name, values in metrics.items()}
            for (taken, _), metrics in zip(self._pending, fetched, strict=True)
            for i in range(len(taken))
        ]
        self._pending.clear()
        for step, row in zip(steps, rows, strict=True):
            check_finite(step, row, self._newest_checkpoint)
        self.last = {name: _mean(name, rows) for name in rows[0]}
        if self._timed_steps:
            elapsed = time.monotonic() - self._clock
            self.images_per_second = self._timed_steps * self._batch_size / elapsed
            self.last["images_per_second"] = self.images_per_second
        self._restart_clock()
        epoch = steps[-1] / self._steps_per_epoch
        write_scalars(self._writer, self._group, steps[-1], self.last | {"epoch": epoch})


def _mean(name: str, rows: list[dict[str, Any]]) -> float:
    """Returns the mean over the steps; for a gradient norm, without the skipped steps."""
    values = [row[name] for row in rows if not (name.startswith("grad_norm") and _skipped(row))]
    return float(np.mean(values, dtype=np.float64)) if values else float("nan")


def _skipped(metrics: dict[str, Any]) -> bool:
    return bool(metrics.get("skipped_step", False))


def check_finite(
    step: int, metrics: dict[str, Any], newest_checkpoint: Callable[[], int | None]
) -> None:
    """Raises FloatingPointError with the names of the metrics that are not finite.

    In float16, a step whose gradients overflow is skipped; only its loss must be finite. A loss
    scale below 1 means that the gradients are not finite at any scale.
    """
    bad = [
        name
        for name, value in metrics.items()
        if not np.isfinite(value) and not (_skipped(metrics) and name.startswith("grad_norm"))
    ]
    if metrics.get("loss_scale", 1.0) < 1:
        bad.append("the gradients at every loss scale")
    if bad:
        newest = newest_checkpoint()
        saved = (
            f"the last good checkpoint is that of step {newest}"
            if newest is not None
            else "no checkpoint was written before it"
        )
        raise FloatingPointError(f"step {step}: {', '.join(bad)} not finite; {saved}.")


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Returns the numbers among an evaluation's results, and those of its tables by their place.

    A table is a nested mapping: {"comparison": {"raw pixels": {"knn_top1": 0.9}}} becomes
    {"comparison/raw_pixels/knn_top1": 0.9}. Sequences, and tables of more than 50 numbers, are left
    out: they would be a wall of curves, and results.json has them.
    """
    found: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            table = _numbers(value, name)
            found |= table if len(table) <= _MOST_OF_A_TABLE else {}
        else:
            found |= _numbers({name: value})
    return found


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in tree.items():
        word = "_".join(str(key).replace("/", " ").split())
        path = f"{prefix}/{word}" if prefix else word
        if isinstance(value, Mapping):
            found |= _numbers(value, path)
        elif isinstance(value, numbers.Real):
            found[path] = float(value)
    return found


def write_scalars(writer: Writer, group: str, step: int, values: Mapping[str, float]) -> None:
    """Writes values as GROUP/NAME; TensorBoard shows the values of a group together."""
    writer.write_scalars(step, {f"{group}/{name}": value for name, value in values.items()})
