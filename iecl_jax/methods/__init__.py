"""Self-supervised methods: pure functions made from a config, one file a method, no base class.

A method's file holds `Settings`, the keys of `config.method` that it reads (`config.section`), and
`make(config, *, total_steps, axis_name)`, which returns a `Method`. It may hold `check(config,
num_devices)`, which raises ValueError for settings that do not go together. It is named by
`config.method.name`: a file of this package without its ending, or the path of any other.
"""

import ml_collections

from iecl_jax.config import kinds
from iecl_jax.methods.parts import saib
from iecl_jax.methods.parts.method import Method as Method


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """The method of `config.method.name`, with SAIB where `config.saib` is enabled."""
    file = kinds.load("method", config.method.name)
    method = file.make(config, total_steps=total_steps, axis_name=axis_name)
    return saib.attach(method, config, axis_name)
