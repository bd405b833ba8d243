"""Images and labels: data sources, training batches on the devices, and evaluation batches."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iecl_jax.data.in_order import eval_batches
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

_FILES = {
    "Split": "split",
    "TrainBatches": "train_batches",
    "check_batches": "train_batches",
    "cropped_on_host": "sources",
    "eval_batches": "in_order",
    "open_split": "sources",
    "statistics": "sources",
}


def __getattr__(name: str) -> Any:
    """Imports a name at its first use: a process that only decodes images needs no JAX."""
    if name in _FILES:
        return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
