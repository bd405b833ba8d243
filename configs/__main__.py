"""Says how to use the configs."""

from iecl_jax.config import listing

if __name__ == "__main__":
    listing.leave("iecl_jax.configs", listing.configs())
