"""Image augmentations on the device.

An operator is a pure function of one image, float32 [H, W, 3] in [0, 1]. Its `random_` twin takes
the image's own key first, draws the parameters and calls it. `pipeline` maps them over a batch.
"""

from iecl_jax.data.augment.checks import check, check_view
from iecl_jax.data.augment.color import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    color_jitter,
    grayscale,
    random_color_jitter,
    random_grayscale,
    random_solarize,
    sample_color_jitter,
    solarize,
)
from iecl_jax.data.augment.crop import (
    random_resized_crop,
    resampling_matrix,
    resize,
    resized_crop,
    sample_box,
)
from iecl_jax.data.augment.filters import (
    add_noise,
    blur_radius,
    gaussian_blur,
    random_add_noise,
    random_gaussian_blur,
)
from iecl_jax.data.augment.geometry import flip, random_flip, random_rotate, rotate
from iecl_jax.data.augment.pipeline import (
    denormalize,
    image_keys,
    make_augment,
    make_eval_transform,
    normalize,
    run_key,
)

__all__ = [
    "add_noise",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "blur_radius",
    "check",
    "check_view",
    "color_jitter",
    "denormalize",
    "flip",
    "gaussian_blur",
    "grayscale",
    "image_keys",
    "make_augment",
    "make_eval_transform",
    "normalize",
    "random_add_noise",
    "random_color_jitter",
    "random_flip",
    "random_gaussian_blur",
    "random_grayscale",
    "random_resized_crop",
    "random_rotate",
    "random_solarize",
    "resampling_matrix",
    "resize",
    "resized_crop",
    "rotate",
    "run_key",
    "sample_box",
    "sample_color_jitter",
    "solarize",
]
