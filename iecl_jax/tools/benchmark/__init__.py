"""Measures speed, memory and arithmetic of training: `python -m iecl_jax.tools.benchmark`."""
