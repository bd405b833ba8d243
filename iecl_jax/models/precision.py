"""Compute types: parameters and statistics are float32 always, activations in the config's type."""

import jax.numpy as jnp
import ml_collections

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def compute_dtype(config: ml_collections.ConfigDict):
    """The type of activations and of kernels at use, from `train.precision`."""
    return DTYPES[config.train.precision]
