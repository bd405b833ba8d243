"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32 px in 10 classes."""

from iecl_jax.data.sources.tfds import Settings, open_split, prepare

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

__all__ = ["MEAN", "STD", "Settings", "open_split", "prepare"]
