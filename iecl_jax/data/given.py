"""Images that a caller gives, as arrays, files or PIL images, become batches of pixels."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from iecl_jax.data import images as image_files
from iecl_jax.data.split import MAX_NATIVE_SIZE

Given = np.ndarray | Image.Image | str | os.PathLike
Images = np.ndarray | Iterable[Given]

_KINDS = "paths, PIL images or arrays uint8 [H, W, 3]"
# Pillow decodes an image at its first use, and two threads must not do that at once.
_decoding = threading.Lock()


def listed(images: Images) -> np.ndarray | list[Given]:
    """Returns uint8 [N, H, W, 3], or a list of images, after checking what can be checked soon.

    Raises:
      ValueError: the images are a single one, or of another kind, shape or type.
    """
    if isinstance(images, str | os.PathLike):
        raise ValueError(f"images are the path {str(images)!r}: pass a list of paths.")
    if isinstance(images, Image.Image):
        raise ValueError("images are one PIL image: pass a list of images.")
    if hasattr(images, "__array__"):  # also those of JAX, PyTorch and pandas
        pixels = np.asarray(images)
        if pixels.dtype.kind not in "UO":
            _check("images are", pixels, "[N, H, W, 3]", ", or a list of images")
            return pixels
        images = pixels.tolist()
    if not isinstance(images, Iterable) or isinstance(images, bytes | dict):
        raise ValueError(f"images are a {type(images).__name__}: pass a list of {_KINDS}.")
    given = list(images)
    for place, image in enumerate(given):
        if isinstance(image, Image.Image | str | os.PathLike):
            continue
        if not hasattr(image, "__array__"):
            raise ValueError(f"image {place} is a {type(image).__name__}: pass {_KINDS}.")
        given[place] = pixels = np.asarray(image)
        _check(f"image {place} is", pixels, "[H, W, 3]", ", or a PIL image of any mode")
    return given


def _check(what: str, pixels: np.ndarray, shape: str, otherwise: str) -> None:
    wrong = pixels.ndim != shape.count(",") + 1 or pixels.shape[-1] != 3
    if wrong or pixels.dtype != np.uint8 or 0 in pixels.shape[-3:]:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        raise ValueError(f"{what} {found}: pass uint8 {shape}{otherwise}.")


def batches(
    images: np.ndarray | Sequence[Given],
    batch_size: int,
    *,
    size: int,
    how: image_files.Reading,
    num_threads: int,
    broken: dict[int, str] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the images in order, at most `batch_size` at once, while the next ones are read.

    Args:
      images: what `listed` returns.
      batch_size: number of images in a batch.
      size: the side S, in pixels, that the network was trained with.
      how: how files are read.
      num_threads: number of threads that read and cut images.
      broken: if it is given, images that cannot be read are left out, and it gets the place of
        each with the reason.

    Yields:
      (number of images read so far, uint8 [b, H, W, 3]): the images as they are if they are an
      array and small or of side S. Otherwise H = W = S, see `cut`.

    Raises:
      ValueError: an image cannot be read, and there is no `broken`.
      OSError: a file is missing, and there is no `broken`.
    """
    starts = range(0, len(images), batch_size)
    if isinstance(images, np.ndarray) and _is_taken_whole(images.shape[1:3], size):
        for start in starts:
            part = images[start : start + batch_size]
            yield start + len(part), part
        return

    def submit(start: int) -> list[Future[np.ndarray]]:
        part = images[start : start + batch_size]
        return [pool.submit(cut, image, size, how) for image in part]

    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            reading = submit(0) if starts else []
            for start in starts:
                following = submit(start + batch_size) if start + batch_size in starts else []
                kept = _results(reading, start, images, broken)
                if kept:
                    yield start + len(reading), np.stack(kept)
                reading = following
        finally:
            pool.shutdown(cancel_futures=True)


def _results(
    reading: Sequence[Future[np.ndarray]],
    start: int,
    images: np.ndarray | Sequence[Given],
    broken: dict[int, str] | None,
) -> list[np.ndarray]:
    kept = []
    for place, future in enumerate(reading, start):
        try:
            kept.append(future.result())
        except image_files.DECODE_ERRORS as error:
            image = images[place]
            is_path = isinstance(image, str | os.PathLike)
            if broken is not None:
                broken[place] = " ".join(str(error).split())
            elif isinstance(error, FileNotFoundError):
                raise
            else:
                name = str(image) if is_path else f"image {place}"
                raise ValueError(f"{name} cannot be read as an image: {error}") from error
    return kept


def cut(image: Given, size: int, how: image_files.Reading) -> np.ndarray:
    """Returns an image as uint8 [S, S, 3], as the evaluations see it.

    An image of at most 96 pixels a side is resized. Of a larger one, the shorter side is resized to
    8/7 of S, and the centre is cut out. An array of side S is returned as it is, since whoever made
    it has cut it.

    Raises:
      ValueError, OSError and others of `images.DECODE_ERRORS`: it cannot be read.
    """
    if isinstance(image, np.ndarray) and image.shape[:2] == (size, size):
        return image
    opened = _opened(image, how)
    if min(opened.size) < 1:
        raise ValueError(f"it has {opened.width} x {opened.height} pixels")
    if max(opened.size) > MAX_NATIVE_SIZE:
        return image_files.center_crop(opened, size, how)
    whole = image_files.to_rgb(opened, how).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(whole)


def _opened(image: Given, how: image_files.Reading) -> Image.Image:
    if isinstance(image, Image.Image):
        with _decoding:
            image.load()
        return image
    if isinstance(image, np.ndarray):
        return image_files.open_image(image, how)
    return image_files.open_image(Path(image).expanduser(), how)


def _is_taken_whole(shape: Sequence[int], size: int) -> bool:
    return max(shape) <= MAX_NATIVE_SIZE or tuple(shape) == (size, size)
