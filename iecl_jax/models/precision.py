"""The types of computation.

Parameters and statistics are always float32. Activations have the type of `train.precision`.
"""

import jax.numpy as jnp
import ml_collections

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def compute_dtype(config: ml_collections.ConfigDict):
    """Returns the type of activations, and of kernels as they are applied (`train.precision`)."""
    return DTYPES[config.train.precision]
