"""Decodes the images of batches, in threads or in worker processes."""

import math
import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iecl_jax.data import images
from iecl_jax.data.split import Split
from iecl_jax.data.worker import Cut, Shapes, Worker


class Decoder:
    """Makes arrays of the images of a split.

    The arrays are the same in threads and in worker processes. Threads share Python's lock, which
    an image holds for a part of its time; worker processes have one each. This process reads the
    records and replaces what is broken in both cases.
    """

    def __init__(self, cut: Cut, shapes: Shapes, most: int, *, num_threads: int, num_workers: int):
        """Starts the threads or the worker processes.

        Args:
          cut: returns a uint8 array of each of the shapes for an image.
          shapes: those shapes.
          most: the largest number of images in a call.
          num_threads: threads that decode if there are no worker processes.
          num_workers: worker processes.
        """
        self._cut, self._shapes = cut, shapes
        self._count = num_workers or num_threads
        # A thread for each worker process sends images to it and copies what it has cut.
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="decode")
        most_of_worker = math.ceil(most / self._count)
        self._workers = [Worker(cut, shapes, most_of_worker) for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    @property
    def pids(self) -> list[int]:
        """The numbers of the worker processes."""
        return [worker.pid for worker in self._workers]

    def decode(
        self, split: Split, indices: np.ndarray, *, step: int = 0, first: int = 0
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Makes the arrays of some images. Threads may call it at the same time.

        Args:
          split: the images.
          indices: int [n], which of them.
          step: the step of their batch.
          first: the place in the global batch of the first of them; the others follow it.

        Returns:
          (results, labels): a uint8 array [n, *shape] for each shape, and the labels, int32 [n].

        Raises:
          ValueError: an image cannot be decoded (see `Split`), or a worker process has ended.
        """
        results = [np.empty((len(indices), *shape), np.uint8) for shape in self._shapes]
        labels = np.empty(len(indices), np.int32)

        def decode(chunk: np.ndarray) -> None:
            if self._workers:
                records = split.read(indices[chunk])
                labels[chunk] = [record.label for record in records]
                sources = [record.image for record in records]
                parts = [result[chunk[0] : chunk[-1] + 1] for result in results]
                chunk = chunk[self._cut_in_worker(sources, step, first + int(chunk[0]), parts)]

            def fill(position: int, image: images.Source) -> None:
                place = int(chunk[position])
                views = self._cut(image, step, first + place)
                for result, made in zip(results, views, strict=True):
                    result[place] = made

            if len(chunk):
                _, labels[chunk] = split.decode(indices[chunk], fill)

        chunks = np.array_split(np.arange(len(indices)), min(self._count, len(indices)))
        for _ in self._pool.map(decode, chunks):
            pass  # raises the error of a thread, if there is one
        return results, labels

    def close(self) -> None:
        """Ends the threads and the processes, after they have finished what they are decoding."""
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def _cut_in_worker(
        self, sources: list[images.Source], step: int, first: int, out: list[np.ndarray]
    ) -> list[int]:
        worker = self._idle.get()
        try:
            return worker.cut(sources, step, first, out)
        finally:
            self._idle.put(worker)
