"""Says how to call the tools."""

from iecl_jax.config import listing

if __name__ == "__main__":
    listing.leave(
        "iecl_jax.tools", listing.tools("iecl_jax.tools") | listing.tools("iecl_jax.tools.figures")
    )
