"""Loads the encoder of a run, to encode any images with it."""

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from iecl_jax import config as config_lib
from iecl_jax import methods
from iecl_jax.config import own_files
from iecl_jax.data import images as image_files
from iecl_jax.data.split import MAX_NATIVE_SIZE
from iecl_jax.evals.parts.encoder import SplitEncoder
from iecl_jax.run.checkpoint import load_for_evaluation

Images = np.ndarray | Sequence[str | os.PathLike]


class Encoder:
    """A trained encoder with fixed weights. Make one with `load`.

    Attributes:
      config: the pretraining config of the run.
      batch_size: number of images encoded at once; the memory that a call takes grows with it.
    """

    def __init__(self, config, weights, batch_size: int):
        """See `load`."""
        self.config, self.batch_size = config, batch_size
        encoder = SplitEncoder(config, methods.make(config, total_steps=1))
        self._encode = encoder.bind(weights["params"], weights["method_state"])
        self._multiple = encoder.num_devices

    def __call__(self, images: Images) -> np.ndarray:
        """Returns the pooled features of images, float32 [N, F].

        Args:
          images: pixels uint8 [N, H, W, 3] of any size, or paths of image files. Pixels, and files
            of at most 96 pixels a side, are resized to the side S that the run was trained with.
            The shorter side of a larger file is resized to 8/7 of S, and its centre is cut out.

        Raises:
          ValueError: pixels are not uint8 [N, H, W, 3], the images are a single path, or a file is
            not an image.
          OSError: a file is missing.
        """
        if isinstance(images, str | os.PathLike):
            raise ValueError(f"images are the path {str(images)!r}: pass a list of paths.")
        if isinstance(images, np.ndarray):
            _check(images)
        if not len(images):
            side = self.config.data.image_size
            return self(np.zeros((1, side, side, 3), np.uint8))[:0]
        return np.concatenate(
            [
                np.asarray(self._encode(self._padded(batch)))[: len(batch)]
                for batch in self._batches(images)
            ]
        )

    def _batches(self, images: Images) -> Iterator[np.ndarray]:
        read = functools.partial(
            _read, size=self.config.data.image_size, how=image_files.reading(self.config.data)
        )
        with ThreadPoolExecutor(self.config.data.num_threads) as pool:
            for start in range(0, len(images), self.batch_size):
                part = images[start : start + self.batch_size]
                if not isinstance(part, np.ndarray):
                    part = np.stack([*pool.map(read, part)])
                yield part

    def _padded(self, batch: np.ndarray) -> np.ndarray:
        """Returns the batch with rows of zeros, so that calls of any N share compiled programs."""
        rows = -(-self.batch_size // self._multiple) * self._multiple
        return np.pad(batch, ((0, rows - len(batch)), (0, 0), (0, 0), (0, 0)))


def _check(pixels: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
        raise ValueError(
            f"images are {pixels.dtype} {list(pixels.shape)}: pass uint8 [N, H, W, 3], or a list "
            "of paths."
        )


def _read(path: str | os.PathLike, size: int, how: image_files.Reading) -> np.ndarray:
    """Returns an image file as uint8 [size, size, 3], cut as for the evaluations."""
    source = Path(path).expanduser()
    try:
        if max(image_files.read_header(source, how).size) > MAX_NATIVE_SIZE:
            return image_files.center_crop(source, size, how)
        image = image_files.to_rgb(image_files.open_image(source, how), how)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    except FileNotFoundError:
        raise
    except image_files.DECODE_ERRORS as error:
        raise ValueError(f"{source} cannot be read as an image: {error}") from error


def load(
    checkpoint: str | os.PathLike,
    *,
    best: bool = False,
    batch_size: int = 256,
    trust_code: bool = False,
) -> Encoder:
    """Returns the encoder of a run.

    Args:
      checkpoint: the folder of a run, whose newest checkpoint counts, or one of its
        checkpoints/STEP.
      best: take the run's checkpoint of the best kNN top-1 instead.
      batch_size: number of images encoded at once.
      trust_code: run the Python files that the config of the checkpoint names, if it names any.

    Raises:
      ValueError: there is no whole checkpoint, or it names Python files and is not trusted.
    """
    try:
        with own_files.trusting(trust_code):
            config, weights = load_for_evaluation(checkpoint, best=best)
    except own_files.Foreign as error:
        words = str(error).replace(own_files.TRUST_FLAG, "trust_code=True")
        raise own_files.Foreign(words) from None
    config_lib.check_pretrain(config, num_devices=1)
    return Encoder(config, weights, batch_size)
