"""Self-supervised learning of image representations in JAX and Flax; see README.md."""

import os

# Whichever command imports TensorFlow: it would print a page about oneDNN.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

__version__ = "0.2.0"
