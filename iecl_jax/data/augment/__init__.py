"""Image augmentations on the device.

An operator (`operators`) is a pure function of one image, float32 [H, W, 3] in [0, 1], and of a key
of its own. `pipeline` maps a view's operators over a batch.
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
