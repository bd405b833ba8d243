"""What every writer of a run's log can do."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Writer:
    """Writes the log of a run to one place. This base writes nothing."""

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes the numbers of a step, named GROUP/NAME."""

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes the pictures of a step, uint8 [h, w, 3], by name."""

    def flush(self) -> None:
        """Returns when all that was written is on the disk."""

    def close(self) -> None:
        """Flushes, and ends the writing."""
