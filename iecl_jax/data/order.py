"""The order of the training images, and which part of a batch a process loads."""

import grain


def batch_order(num_images: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Batch t of training as int64 [batch_size] indices, for any t >= 0 (random access).

    Each epoch is a new permutation of the images, less the remainder that does not fill a batch;
    the order depends on the arguments alone.
    """
    images = grain.MapDataset.range(num_images).seed(seed).shuffle()
    return images.batch(batch_size, drop_remainder=True).repeat()


def process_slice(batch_size: int, process_index: int, process_count: int) -> slice:
    """Places of the global batch that a process loads: equal runs in process order."""
    size = batch_size // process_count
    return slice(process_index * size, (process_index + 1) * size)
