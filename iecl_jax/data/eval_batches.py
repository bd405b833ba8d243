"""The images of a split in order, for evaluation."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grain
import ml_collections
import numpy as np

from iecl_jax.data import images
from iecl_jax.data.split import Split


def eval_batches(
    data: ml_collections.ConfigDict,
    split: Split,
    batch_size: int,
    indices: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields each image once, in order or in the order of `indices` (int [n]).

    {"image": uint8 [B,H,W,3] at the split's own size, or if that varies [B,S,S,3]: shorter side
    resized to round(S * 256 / 224), centre of S kept; "label": int32 [B], -1 = unlabelled;
    "mask": bool [B], False in the places that fill up the last batch (zero image, label -1)}.
    The next batch is decoded in `data.num_threads` threads meanwhile. With a data.cache the decoded
    images are kept in the split for the next time.
    """
    indices = np.arange(len(split)) if indices is None else np.asarray(indices)
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    shape = (*(split.image_shape or (data.image_size,) * 2), 3)

    def view(_: int, image: images.Source) -> list[np.ndarray]:
        if split.image_shape is not None:
            return [images.decode(image)]
        return [images.center_crop(image, data.image_size)]

    def load(number: int) -> dict[str, np.ndarray]:
        batch = batches[number]
        if data.cache != "none":
            pixels, labels = split.pixels
            return _pad(pixels[batch], labels[batch], batch_size)
        [pixels], labels = split.decode_in(pool, batch, [shape], view)
        return _pad(pixels, labels, batch_size)

    with ThreadPoolExecutor(data.num_threads, thread_name_prefix="decode") as pool:
        numbers = grain.MapDataset.range(len(batches)).map(load)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        with contextlib.closing(iter(numbers.to_iter_dataset(options))) as iterator:
            yield from iterator


def _pad(pixels: np.ndarray, labels: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    extra = batch_size - len(labels)
    return {
        "image": np.pad(pixels, ((0, extra), (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, (0, extra), constant_values=-1),
        "mask": np.arange(batch_size) < len(labels),
    }
