"""The self-supervised methods, one file each: pure functions made from a config, no base class.

`config.method.name` is the name of a file of this package without `.py`, or the path of another
file. The file of a method defines

    Settings                                a `config.section.Section`: the keys of config.method
                                            that it reads
    make(config, *, total_steps, axis_name) -> Method
                                            it may also take `steps_per_epoch` and `num_images`
    check(config, num_devices)              raises ValueError for settings that do not fit together
                                            (optional)
    LONG_QUEUE = True                       lets `method.queue_size` be more than the images
                                            (optional)
    alarms(config, metrics) -> list of str  a sentence for each metric of the log that is out of its
                                            limits; `metrics` are floats by name, with the
                                            number of epochs as "epoch" (optional)
"""

import inspect
from collections.abc import Mapping

import ml_collections

from iecl_jax.config import kinds
from iecl_jax.methods.parts import saib
from iecl_jax.methods.parts.method import Method as Method


def make(
    config: ml_collections.ConfigDict,
    *,
    total_steps: int,
    axis_name: str | None = None,
    steps_per_epoch: int = 1,
    num_images: int = 1,
) -> Method:
    """Returns the method that a config names, with SAIB in front of it if that is enabled.

    Args:
      config: a pretraining config.
      total_steps: the length of the run, for schedules.
      axis_name: the axis of the devices in the pmapped step; None for a single device.
      steps_per_epoch: the length of an epoch.
      num_images: the number of training images.
    """
    make_method = kinds.load("method", config.method.name).make
    facts = {"steps_per_epoch": steps_per_epoch, "num_images": num_images}
    wanted = inspect.signature(make_method).parameters
    facts = {name: value for name, value in facts.items() if name in wanted}
    method = make_method(config, total_steps=total_steps, axis_name=axis_name, **facts)
    return saib.attach(method, config, axis_name)


def alarms(config: ml_collections.ConfigDict, metrics: Mapping[str, float]) -> list[str]:
    """Returns a sentence for each logged metric that is outside the limits of the method.

    There are no metrics before the first entry of the log, and then no alarms.
    """
    file = kinds.load("method", config.method.name)
    return file.alarms(config, metrics) if metrics and hasattr(file, "alarms") else []
