"""A ResNet of one block a stage, which compiles soon: `config.encoder.update(ENCODER)`."""

from iecl_jax.config.rules import COUNT
from iecl_jax.config.section import key
from iecl_jax.models.encoders import resnet

ENCODER = {"name": "tests/tiny_resnet.py", "num_stages": 1, "width": 4}


class Settings(resnet.Settings):
    """Of a ResNet, and its own."""

    num_stages = key(1, COUNT, "stages, each of one basic block")


def make(config, *, axis_name=None):
    """See `models.encoders`."""
    stages = (1,) * config.encoder.num_stages
    return resnet.of_blocks(config, stages, False, axis_name=axis_name)
