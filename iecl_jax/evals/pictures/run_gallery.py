"""Draws a run's gallery: its first images, their views at a step, and SAIB's output."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from iecl_jax import data
from iecl_jax.evals.pictures import gallery
from iecl_jax.methods import Method
from iecl_jax.train.state import TrainState

_COLUMNS = 8


class RunGallery:
    """Maps (step, state) to {"gallery": uint8 [h, w, 3]}, see `gallery.draw`."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        method: Method,
        split: data.Split,
        views: Callable[[int, Any], Sequence[jax.Array]],
    ):
        """Chooses the images.

        Args:
          config: the pretraining config.
          method: the method of that config.
          split: the images of the pretraining.
          views: (step, batch) -> the views that the training step makes.
        """
        count = _COLUMNS
        if config.saib.enabled:
            # SAIB needs whole groups.
            count = config.saib.group_size * -(-count // config.saib.group_size)
        self._config, self._split, self._indices = config, split, np.arange(count) % len(split)
        self._views = views
        self._transform = jax.jit(method.transform)

    def __call__(self, step: int, state: TrainState) -> dict[str, np.ndarray]:
        indices = self._indices
        batch = next(data.eval_batches(self._config.data, self._split, len(indices), indices))
        seen = self._views(step, {"image": batch["image"], "label": batch["label"]})
        shown, transformed = slice(None, _COLUMNS), None
        if self._config.saib.enabled:
            params, method_state = jax.device_get((state.params, state.method_state))
            transformed = np.asarray(self._transform(params, method_state, seen[1])[shown])
        views = [np.asarray(view[shown]) for view in seen]
        picture = gallery.draw(
            batch["image"][shown] / 255,
            views[:2],
            transformed,
            dict(zip(self._config.augment.views[2:], views[2:], strict=True)),
        )
        return {"gallery": picture}
