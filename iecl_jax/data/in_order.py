"""Yields the images of a split in order, for evaluation."""

import contextlib
from collections.abc import Iterator

import grain
import ml_collections
import numpy as np

from iecl_jax.data import crops
from iecl_jax.data.caching import chosen
from iecl_jax.data.decoder import Decoder
from iecl_jax.data.split import Split
from iecl_jax.data.worker import Cut


def eval_batches(
    data: ml_collections.ConfigDict,
    split: Split,
    batch_size: int,
    indices: np.ndarray | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of B = `batch_size` images, each image once.

    The next batch is decoded, see `Decoder`, while the caller uses this one. With a `data.cache`,
    the split keeps the decoded images for the next time.

    Args:
      data: config.data.
      split: the images.
      batch_size: B.
      indices: int [n], the images to read, in this order; all of the split by default.

    Yields:
      A dict of
        image: uint8 [B,H,W,3] at the split's own size. If sizes vary, [B,S,S,3]: the shorter side
          is resized to round(S * 256 / 224), and the centre of side S = data.image_size is cut out.
        label: int32 [B], -1 = unlabelled.
        mask: bool [B], False for the rows that fill up the last batch (zero image, label -1).
    """
    indices = np.arange(len(split)) if indices is None else np.asarray(indices)
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    cached = chosen(data.cache, split) != "none"
    shape = (*(split.image_shape or (data.image_size,) * 2), 3)

    if split.image_shape is not None:
        cut: Cut = crops.WholeImage(split.reading)
    else:
        cut = crops.Centre(data.image_size, split.reading)

    def load(number: int) -> dict[str, np.ndarray]:
        batch = batches[number]
        if cached:
            pixels, labels = split.pixels
            return _pad(pixels[batch], labels[batch], batch_size)
        [pixels], labels = decoder.decode(split, batch)
        return _pad(pixels, labels, batch_size)

    decoder = Decoder(
        cut,
        [shape],
        batch_size,
        num_threads=data.num_threads,
        num_workers=0 if cached else data.num_workers,
    )
    with contextlib.closing(decoder):
        numbers = grain.MapDataset.range(len(batches)).map(load)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        with contextlib.closing(iter(numbers.to_iter_dataset(options))) as iterator:
            yield from iterator


def _pad(pixels: np.ndarray, labels: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Fills a batch up to `batch_size` rows, so that every batch has the same shape to compile."""
    extra = batch_size - len(labels)
    return {
        "image": np.pad(pixels, ((0, extra), (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, (0, extra), constant_values=-1),
        "mask": np.arange(batch_size) < len(labels),
    }
