"""Endless batches, read ahead by threads and put on the devices."""

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax.data.order import batch_order, process_slice

Batch = dict[str, Any]  # values are np.ndarray or jax.Array, or lists of them


class Stream(Iterator[Batch]):
    """Yields the batches of a data set from a given one on, each leaf [D, b, ...] on D devices.

    Threads read the next batches and put as many on the devices. If reading fails, the `next` that
    would have returned the batch raises the error.

    Attributes:
      position: number of batches returned so far; `start=position` continues with the next one.
    """

    def __init__(
        self,
        batches: grain.MapDataset,
        close: Callable[[], None],
        *,
        put: Callable[[Batch], Batch] | None = None,
        prefetch: int,
        start: int = 0,
    ):
        """Opens the batches.

        Args:
          batches: element t is this process's part of batch t, leaves [D * b, ...].
          close: ends the threads or processes that `batches` reads with.
          put: puts a batch on the local devices; None = `put_on_devices`.
          prefetch: number of batches read ahead, and as many put on the devices ahead.
          start: number of the first batch.
        """
        self.position = start
        ahead = batches.to_iter_dataset(
            grain.ReadOptions(num_threads=prefetch, prefetch_buffer_size=prefetch)
        )
        on_device = grain.experimental.ThreadPrefetchIterDataset(
            ahead.map(put or put_on_devices), prefetch_buffer_size=prefetch
        )
        iterator = iter(on_device)
        iterator.set_state({"next_index": start})
        self._iterators = [iterator]  # a list that `_close` empties
        # Also closes when the object is garbage-collected and when the interpreter exits.
        self._finalizer = weakref.finalize(self, _close, self._iterators, close)

    def __next__(self) -> Batch:
        if not self._iterators:
            raise ValueError("These batches are closed.")
        batch = next(self._iterators[0])
        self.position += 1
        return batch

    def close(self) -> None:
        """Stops the threads and processes, after they have finished what they are reading."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def of_examples(
    read: Callable[[int, int, int], Mapping[str, np.ndarray]],
    num_examples: int,
    *,
    batch_size: int,
    seed: int,
    num_threads: int,
    prefetch: int,
    start: int = 0,
) -> Stream:
    """Returns the batches of examples that a function reads, in the order of `batch_order`.

    Args:
      read: (index, step, place) -> the arrays of example `index`, which is at `place` in the global
        batch of `step`. Every example has arrays of the same shapes. Threads call it.
      num_examples: number of examples, at least `batch_size`.
      batch_size: examples of a batch, over all devices of all processes.
      seed: of the order.
      num_threads, prefetch: of reading, see `Stream`.
      start: number of the first batch.
    """
    places = process_slice(batch_size, jax.process_index(), jax.process_count())
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read")

    def stacked(step: int, batch: np.ndarray) -> Batch:
        own = batch[places]
        count = len(own)
        examples = list(pool.map(read, own, [step] * count, range(places.start, places.stop)))
        return {name: np.stack([each[name] for each in examples]) for name in examples[0]}

    batches = batch_order(num_examples, batch_size, seed).map_with_index(stacked)
    close = functools.partial(pool.shutdown, cancel_futures=True)
    return Stream(batches, close, prefetch=prefetch, start=start)


def local_mesh() -> Mesh:
    """Returns the devices of this process on an axis "device"."""
    return Mesh(np.array(jax.local_devices()), ("device",))


def put_on_devices(batch: Batch) -> Batch:
    """Splits the first axis of every leaf over the local devices: [D * b, ...] -> [D, b, ...]."""
    sharding = NamedSharding(local_mesh(), PartitionSpec("device"))
    count = sharding.mesh.size
    split = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
    return jax.device_put(split, sharding)


def _close(iterators: list[grain.DatasetIterator], close: Callable[[], None]) -> None:
    # Grain's iterator must be closed before the exiting interpreter unloads Grain's modules.
    iterators.pop().close()
    close()
