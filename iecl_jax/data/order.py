"""The order of the training images, and which part of a batch a process loads."""

import functools

import grain
import numpy as np


def batch_order(num_images: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Batch t of training as int64 [batch_size] indices, for any t >= 0 (random access).

    Each epoch is a new permutation of the images, less the remainder that does not fill a batch;
    the order depends on the arguments alone. An epoch's permutation is drawn at once, and kept:
    Grain's own `shuffle` takes 18 microseconds an image of Python, which cached images would feel.
    """
    steps_per_epoch = num_images // batch_size

    @functools.lru_cache(maxsize=2)  # Prefetching asks for two epochs in turn where they meet.
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(num_images)

    def indices(step: int, _: int) -> np.ndarray:
        epoch, number = divmod(step, steps_per_epoch)
        return permutation(epoch)[number * batch_size : (number + 1) * batch_size]

    return grain.MapDataset.range(steps_per_epoch).repeat().map_with_index(indices)


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """Places of the global batch that a process loads: equal runs in process order."""
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)
