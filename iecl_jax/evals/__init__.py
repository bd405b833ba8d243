"""What is measured of a network: a file an evaluation, during training or as a job; diagnostics."""

from iecl_jax.evals.parts.schedule import scheduled

__all__ = ["scheduled"]
