"""Writes the numbers and pictures of a run: as text and PNG files, for TensorBoard, and for W&B."""

import collections
import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax.data import files
from iecl_jax.run import events, markdown, names, tracking
from iecl_jax.run.metrics_file import NAME, MetricsFile
from iecl_jax.run.writer import Writer


class Summaries(Writer):
    """Writes to several places. One that fails is left out with a warning: the run goes on."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = list(writers)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers, named GROUP/NAME."""
        self._each("write_scalars", step, scalars)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures uint8 [h, w, 3] by name."""
        self._each("write_images", step, images)

    def flush(self) -> None:
        """Returns when all is on the disk."""
        self._each("flush")

    def close(self) -> None:
        """Flushes, and ends the writing."""
        self._each("close")
        self._writers.clear()

    def _each(self, what: str, *arguments: Any) -> None:
        for writer in tuple(self._writers):
            try:
                getattr(writer, what)(*arguments)
            except Exception as error:
                self._writers.remove(writer)
                kind = type(writer).__name__
                logging.warning("%s ends here, and the run goes on without: %s", kind, error)


def create_writer(
    workdir: str | os.PathLike,
    *,
    step: int = 0,
    config: ml_collections.ConfigDict | None = None,
) -> Summaries:
    """Returns the writer of a run that has taken `step` steps; only process 0 writes.

    What was written for later steps, which the run takes again, is removed.

    Args:
      workdir: gets metrics.jsonl, a folder of PNG files for each kind of picture, event files, and
        with `config.log.wandb` a folder of W&B.
      step: number of steps taken.
      config: the settings, written for TensorBoard and W&B; None = no settings.
    """
    if jax.process_index() > 0:
        return Summaries([])
    Path(workdir).mkdir(parents=True, exist_ok=True)
    makers: list[Callable[[], Writer]] = [
        lambda: _metrics_file(workdir, step),
        lambda: PictureFiles(workdir),
        lambda: EventFiles(workdir, step, config),
    ]
    if config is not None and config.get("log", {}).get("wandb", "off") != "off":
        makers.append(lambda: tracking.start(workdir, config))
    writers = []
    for make in makers:
        try:
            writers.append(make())
        except Exception as error:
            logging.warning("%s", error)
    return Summaries(writers)


def _metrics_file(workdir: str | os.PathLike, step: int) -> MetricsFile:
    """Opens metrics.jsonl. If an earlier revision began the run, it gets that one's numbers."""
    begun = (Path(workdir) / NAME).exists() or step == 0
    file = MetricsFile(workdir, step)
    lines: dict[int, dict[str, float]] = {}
    with contextlib.suppress(ValueError, ImportError):  # Without them, the file begins here.
        for name, curve in ({} if begun else events.read(workdir).scalars).items():
            for at, value in zip(curve.steps, curve.values, strict=True):
                lines.setdefault(int(at), {})[name] = float(value)
    for at in sorted(lines):
        if at <= step:
            file.write_scalars(at, lines[at])
    return file


class PictureFiles(Writer):
    """Writes pictures as WORKDIR/NAME/STEP.png."""

    def __init__(self, workdir: str | os.PathLike):
        self._workdir = Path(workdir)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes each picture, whole or not at all."""
        for name, image in images.items():
            with files.open_whole(self._workdir / name / f"{step:08d}.png") as file:
                Image.fromarray(image).save(file, format="PNG")


class EventFiles(Writer):
    """Writes TensorBoard's event files with clu, in a thread.

    The thread opens the file, for which it imports TensorFlow, when the first number is written: a
    training does not wait for these seconds. What is written until then waits in a queue.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        step: int,
        config: ml_collections.ConfigDict | None,
    ):
        """Cuts what is there off after `step`.

        Raises:
          ImportError: TensorFlow or clu is not installed.
        """
        if missing := [name for name in ("tensorflow", "clu") if not _is_installed(name)]:
            raise ImportError(
                f"No event files for TensorBoard, since {' and '.join(missing)} cannot be "
                f"imported. {NAME} has all numbers."
            )
        if any(Path(workdir).glob(f"*{names.EVENT_FILES}")):  # also a hidden one, half written
            from iecl_jax.run import event_files  # imports tensorboard

            event_files.cut(workdir, step)
        self._open = functools.partial(_open_with_clu, workdir, step, config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tensorboard")
        self._queue: collections.deque[Future] = collections.deque()
        self._writer: Any = None

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers, under the tags of `names`."""
        tags = {names.number_in_tensorboard(name): value for name, value in scalars.items()}
        self._put("write_scalars", step, tags)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, under the tags of `names`."""
        tags = {names.picture_in_tensorboard(name): image[None] for name, image in images.items()}
        self._put("write_images", step, tags)

    def flush(self) -> None:
        """Waits for the thread and for the disk."""
        if self._writer is not None or self._queue:
            self._put("flush")
            self._wait(len(self._queue))

    def close(self) -> None:
        """Flushes and closes the file."""
        self._put("close")
        self._wait(len(self._queue))
        self._thread.shutdown()

    def _put(self, method: str, *arguments: Any) -> None:
        """Lets the thread call a method of clu's writer, and raises what earlier calls raised."""
        self._wait(sum(each.done() for each in self._queue))
        self._queue.append(self._thread.submit(self._call, method, *arguments))

    def _call(self, method: str, *arguments: Any) -> None:
        if self._writer is None:
            self._writer = self._open()
        getattr(self._writer, method)(*arguments)

    def _wait(self, count: int) -> None:
        """Waits for the `count` oldest calls."""
        try:
            for _ in range(count):
                self._queue.popleft().result()
        except Exception:
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def _open_with_clu(
    workdir: str | os.PathLike, step: int, config: ml_collections.ConfigDict | None
) -> Any:
    """Opens an event file that begins with the settings of `config`."""
    import tensorflow as tf
    from clu.metric_writers import SummaryWriter

    # clu writes with TensorFlow, which would otherwise allocate the GPU memory that JAX needs.
    tf.config.set_visible_devices([], "GPU")
    writer = SummaryWriter(os.fspath(workdir))
    if config is not None:
        settings = config_lib.leaves(config)
        writer.write_texts(step, {"settings": _table(settings)})
        writer.write_hparams({name: _simple(value) for name, value in settings.items()})
    return writer


def _table(settings: Mapping[str, Any]) -> str:
    """Returns the settings as a Markdown table."""
    rows = [[f"`{name}`", f"`{value!r}`"] for name, value in settings.items()]
    return markdown.table(["setting", "value"], rows, text=2)


def _simple(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str)) else str(value)
