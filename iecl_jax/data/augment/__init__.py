"""Image augmentations on the device.

An operator (`operators`) is a pure function of one image, float32 [H, W, 3] in [0, 1], and its own
random key. `pipeline` applies the operators of a view to a batch.
"""

from iecl_jax.data.augment.pipeline import (
    denormalize,
    image_keys,
    make_augment,
    make_eval_transform,
    normalize,
    run_key,
    view_sizes,
)

__all__ = [
    "denormalize",
    "image_keys",
    "make_augment",
    "make_eval_transform",
    "normalize",
    "run_key",
    "view_sizes",
]
