"""Speed, memory and arithmetic of training; `python -m iecl_jax.benchmark`, see `__main__`."""
