"""Self-supervised learning of image representations in JAX and Flax; see README.md.

`load` returns the encoder of a run or of a file of weights: see `iecl_jax.evals.load`.
"""

import importlib
import os
from typing import Any

# Whichever command imports TensorFlow: it would print a page about oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Imports `load` at its first use, since that takes seconds."""
    if name == "load":
        return importlib.import_module("iecl_jax.evals").load
    raise AttributeError(f"module 'iecl_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "load"]
