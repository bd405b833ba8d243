"""CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 px, 100 classes."""

from iecl_jax.data.sources.tfds import Settings, open_split, prepare

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

__all__ = ["MEAN", "STD", "Settings", "open_split", "prepare"]
