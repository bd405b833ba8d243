"""Images and labels: data sources, training batches on the devices, and evaluation batches."""

from iecl_jax.data.eval_batches import eval_batches
from iecl_jax.data.sources import cropped_on_host, open_split, statistics
from iecl_jax.data.split import Split
from iecl_jax.data.train_batches import TrainBatches, check_batches

__all__ = [
    "Split",
    "TrainBatches",
    "check_batches",
    "cropped_on_host",
    "eval_batches",
    "open_split",
    "statistics",
]
