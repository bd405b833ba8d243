"""Cuts images in another process: what `Worker` starts, and what it runs there.

The process imports NumPy and Pillow, but neither JAX nor the user's files. It gets the images as
encoded bytes, paths or pixels through a pipe, and writes what it cuts into memory that both
processes share and that has no name: when both have ended, however they end, it is gone. If the
other end of the pipe closes, as it does when its process is killed, the process ends.

Grain's `mp_prefetch` would need a copy of the source in each process, which would then count broken
files for itself.
"""

import contextlib
import math
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

import numpy as np

from iecl_jax.data.images import Source

# A function (image, step, place in the global batch) -> uint8 arrays. It can be pickled.
Cut = Callable[[Source, int, int], Sequence[np.ndarray]]
Shapes = Sequence[tuple[int, ...]]

_PATIENCE = 10.0  # seconds that a process gets to end by itself
_MAIN = "import sys; sys.path[:] = {path}; from iecl_jax.data import worker; worker.serve({fds})"


class Worker:
    """A process that cuts images, and ends with `close` or with this process."""

    def __init__(self, cut: Cut, shapes: Shapes, most: int):
        """Starts the process, without waiting until it is ready.

        Args:
          cut: cuts an image.
          shapes: the shapes of the arrays that `cut` returns.
          most: the largest number of images in a call.
        """
        block = _make_block(most * sum(map(math.prod, shapes)))
        self._arrays = _arrays(block, shapes, most)
        self._connection, other = multiprocessing.Pipe()
        fds = other.fileno(), block
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN.format(path=sys.path, fds=f"*{fds}")],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            process_group=0,  # Ctrl-C in a terminal is for this process, which then closes
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # threads that nothing uses
        )
        other.close()
        os.close(block)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the next call tells
            self._connection.send((cut, shapes, most))

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def cut(
        self, sources: Sequence[Source], step: int, first: int, out: Sequence[np.ndarray]
    ) -> list[int]:
        """Cuts images and waits for them.

        Args:
          sources: n images.
          step: the step of their batch.
          first: the place in the global batch of the first of them; the others follow it.
          out: gets the results, a uint8 array [n, *shape] for each shape.

        Returns:
          The places in `sources` of the images that failed, where `out` is undefined.

        Raises:
          ValueError: the process has ended.
        """
        try:
            self._connection.send((sources, step, first))
            failed = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ValueError(self._end()) from None
        for result, made in zip(out, self._arrays, strict=True):
            result[:] = made[: len(sources)]
        return failed

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _end(self) -> str:
        """Returns a sentence about the end of the process."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE)
        code = self._process.returncode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return (
            f"Process {self.pid}, which decoded images, was ended {how}. If the memory was full, "
            "lower data.num_workers; data.num_workers=0 decodes in threads."
        )


def serve(connection: int, block: int) -> None:
    """Cuts images until the other end of the pipe closes; runs in the process of a `Worker`.

    Args:
      connection: the file descriptor of the pipe.
      block: the file descriptor of the shared memory.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # for the other process, which may yet save
        signal.signal(number, signal.SIG_IGN)
    with (
        Connection(connection) as other,
        contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError),
    ):
        cut, shapes, most = other.recv()
        arrays = _arrays(block, shapes, most)
        while True:
            sources, step, first = other.recv()
            other.send(_cut_all(cut, sources, step, first, arrays))


def _cut_all(
    cut: Cut, sources: Sequence[Source], step: int, first: int, out: Sequence[np.ndarray]
) -> list[int]:
    """Cuts images; returns which failed. The other process tries those again, to see the error."""
    failed = []
    for number, source in enumerate(sources):
        try:
            for result, made in zip(out, cut(source, step, first + number), strict=True):
                result[number] = made
        except Exception:
            failed.append(number)
    return failed


def _make_block(num_bytes: int) -> int:
    """Returns the file descriptor of new memory without a name."""
    if hasattr(os, "memfd_create"):  # Linux; /dev/shm is often too small in a container
        block = os.memfd_create("images")
    else:
        with tempfile.TemporaryFile() as file:
            block = os.dup(file.fileno())
    os.ftruncate(block, num_bytes)
    return block


def _arrays(block: int, shapes: Shapes, most: int) -> list[np.ndarray]:
    """Returns the arrays in shared memory, uint8 [most, *shape] for each shape."""
    ends = np.cumsum([most * math.prod(shape) for shape in shapes])
    parts = np.split(np.frombuffer(mmap.mmap(block, int(ends[-1])), np.uint8), ends[:-1])
    return [part.reshape(most, *shape) for part, shape in zip(parts, shapes, strict=True)]
