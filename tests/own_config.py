"""A user's config that names no other file: the quick start's."""

from iecl_jax.configs import quickstart


def get_config():
    return quickstart.get_config("smoke")
