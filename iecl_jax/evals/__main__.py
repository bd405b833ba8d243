"""Says how to run the evaluations."""

from iecl_jax.config import listing

if __name__ == "__main__":
    listing.leave("iecl_jax.evals", listing.evaluations())
