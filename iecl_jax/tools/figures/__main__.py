"""Says how to draw each figure."""

from iecl_jax.config import listing

if __name__ == "__main__":
    listing.leave("iecl_jax.tools.figures", listing.tools("iecl_jax.tools.figures"))
