"""The self-supervised methods, one file each: pure functions made from a config, no base class.

`config.method.name` is the name of a file of this package without `.py`, or the path of another
file. The file of a method defines

    Settings                                a `config.section.Section`: the keys of config.method
                                            that it reads
    make(config, *, total_steps, axis_name) -> Method
    check(config, num_devices)              raises ValueError for settings that do not fit together
                                            (optional)
"""

import ml_collections

from iecl_jax.config import kinds
from iecl_jax.methods.parts import saib
from iecl_jax.methods.parts.method import Method as Method


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """Returns the method that a config names, with SAIB in front of it if that is enabled.

    Args:
      config: a pretraining config.
      total_steps: the length of the run, for schedules.
      axis_name: the axis of the devices in the pmapped step; None for a single device.
    """
    file = kinds.load("method", config.method.name)
    method = file.make(config, total_steps=total_steps, axis_name=axis_name)
    return saib.attach(method, config, axis_name)
