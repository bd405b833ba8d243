"""Says how to train."""

from iecl_jax.config import listing

if __name__ == "__main__":
    listing.leave("iecl_jax.train", listing.configs())
