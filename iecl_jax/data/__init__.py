"""Images and labels: opening data sets, training batches on the devices, evaluation batches."""

from iecl_jax.data.datasets import NAMES, check, open_split
from iecl_jax.data.eval_batches import eval_batches
from iecl_jax.data.split import Split
from iecl_jax.data.train_batches import TrainBatches, check_batches

__all__ = [
    "NAMES",
    "Split",
    "TrainBatches",
    "check",
    "check_batches",
    "eval_batches",
    "open_split",
]
