"""Common corruptions of images at five strengths (Hendrycks and Dietterich 2019).

They are the eight of github.com/hendrycks/robustness that need NumPy, SciPy and Pillow alone, with
the constants of CIFAR-10-C for images of at most 64 pixels and those of ImageNet-C for larger ones.
The widths of the blur are those for 32 and 224 pixels, and proportional to the side otherwise.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

LEVELS = 5
_SMALL = 64  # pixels of the longer side
_SIDES = (32, 224)  # for which the constants were chosen

# {operator: (constants of CIFAR-10-C, constants of ImageNet-C)} of the five strengths.
_CONSTANTS = {
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}
OPERATORS = tuple(_CONSTANTS)


def corrupt(image: np.ndarray, operator: str, level: int, *, seed: int) -> np.ndarray:
    """Returns a corrupted image, uint8 [H, W, 3].

    The noise depends on the seed, the operator and the pixels, and neither on the level, so that a
    level differs from another only by its constant, nor on the order of the images.

    Args:
      image: uint8 [H, W, 3].
      operator: one of OPERATORS.
      level: the strength, 1 to LEVELS.
      seed: non-negative.
    """
    large = max(image.shape[:2]) > _SMALL
    constant = float(_CONSTANTS[operator][large][level - 1])
    if operator == "gaussian_blur":
        constant *= max(image.shape[:2]) / _SIDES[large]
    rng = np.random.default_rng((seed, OPERATORS.index(operator), zlib.crc32(image.tobytes())))
    if operator in _OF_FILES:
        return _OF_FILES[operator](image, constant)
    changed = _OF_VALUES[operator](image / 255.0, constant, rng)
    # Rounded down, as the published images are.
    return np.asarray(np.clip(changed, 0, 1) * 255).astype(np.uint8)


def _gaussian_noise(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return x + rng.normal(scale=sigma, size=x.shape)


def _shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Sets a share of the values, of each channel by itself, to 0 or 1."""
    hit, white = rng.uniform(size=(2, *x.shape))
    return np.where(hit < share, white < 0.5, x)


def _gaussian_blur(x: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4)


def _brightness(x: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    """Adds to the value of HSV, the largest channel; hue and saturation stay."""
    value = x.max(axis=-1, keepdims=True)
    raised = np.minimum(value + added, 1)
    return np.where(value > 0, x * (raised / np.where(value > 0, value, 1)), raised)


def _contrast(x: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(0, 1), keepdims=True)
    return (x - mean) * factor + mean


def _pixelate(image: np.ndarray, factor: float) -> np.ndarray:
    height, width, _ = image.shape
    smaller = max(1, int(width * factor)), max(1, int(height * factor))
    shrunk = Image.fromarray(image).resize(smaller, Image.Resampling.BOX)
    return np.asarray(shrunk.resize((width, height), Image.Resampling.BOX))


def _jpeg_compression(image: np.ndarray, quality: float) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    return np.asarray(Image.open(file).convert("RGB"))


_OF_FILES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
_OF_VALUES: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "gaussian_blur": _gaussian_blur,
    "brightness": _brightness,
    "contrast": _contrast,
}
