"""Decides the order of the training images, and which part of a batch a process loads."""

import functools

import grain
import numpy as np


def batch_order(num_images: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Returns a data set whose element t is batch t of training: indices, int64 [batch_size].

    Any t >= 0 can be read directly. Each epoch is a new permutation of the images, without the
    remainder that does not fill a batch. The order depends only on the arguments.
    """
    # The permutation of an epoch is drawn as a whole and cached. Grain's own `shuffle` takes 18
    # microseconds of Python per image, which would slow down cached images.
    steps_per_epoch = num_images // batch_size

    @functools.lru_cache(maxsize=2)  # at an epoch's end, prefetching reads two epochs in turn
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(num_images)

    def indices(step: int, _: int) -> np.ndarray:
        epoch, number = divmod(step, steps_per_epoch)
        return permutation(epoch)[number * batch_size : (number + 1) * batch_size]

    return grain.MapDataset.range(steps_per_epoch).repeat().map_with_index(indices)


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the places of the global batch that a process loads: equal runs in process order."""
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)
