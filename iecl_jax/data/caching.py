"""Chooses where the decoded images of a split are kept: `data.cache`."""

import math

import jax

from iecl_jax.data import memory
from iecl_jax.data.split import Split

_SHARE_OF_DEVICE, _SHARE_OF_HOST = 1 / 8, 1 / 4  # of the memory that the images may fill


def chosen(cache: str, split: Split) -> str:
    """Returns "none", "host" or "device" for `data.cache`; the batches are the same for all three.

    "auto" keeps small images of one size: on the devices if they fill at most an eighth of one, or
    else on the host if they fill at most a quarter of its memory. A CPU is no device of its own.
    """
    if cache != "auto":
        return cache
    if split.image_shape is None:
        return "none"
    size = num_bytes(split)
    of_devices = [memory.of_device(device) or 0 for device in jax.local_devices()]
    if size <= _SHARE_OF_DEVICE * min(of_devices):
        return "device"
    return "host" if size <= _SHARE_OF_HOST * memory.of_host() else "none"


def num_bytes(split: Split) -> int:
    """Returns the size of all decoded images of a split; they must be small and of one size."""
    assert split.image_shape is not None
    return len(split) * 3 * math.prod(split.image_shape)
