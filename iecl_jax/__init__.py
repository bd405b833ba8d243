"""Self-supervised learning of image representations in JAX and Flax; see README.md."""

__version__ = "0.2.0"
