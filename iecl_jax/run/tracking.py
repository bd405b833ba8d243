"""Writes a run's numbers and pictures to Weights & Biases, if `log.wandb` asks for it."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.data import files
from iecl_jax.run.writer import Writer

_ID = "wandb_id.txt"


def start(workdir: str | os.PathLike, config: ml_collections.ConfigDict) -> "WeightsAndBiases":
    """Returns the writer of a run; raises RuntimeError with one sentence if W&B refuses it."""
    try:
        with console.waiting("Starting Weights & Biases"):
            return WeightsAndBiases(workdir, config)
    except Exception as error:
        raise RuntimeError(
            f"No Weights & Biases (log.wandb={config.log.wandb}): {error}"
        ) from error


class WeightsAndBiases(Writer):
    """Writes to one run of W&B, which a resumed training continues.

    Its id is kept in WORKDIR/wandb_id.txt, its files in WORKDIR/wandb.
    """

    def __init__(self, workdir: str | os.PathLike, config: ml_collections.ConfigDict):
        """Starts or continues the run of W&B; raises its errors."""
        import wandb

        path = Path(workdir).absolute() / _ID
        if not path.exists():
            with files.open_whole(path, "w") as file:
                file.write(uuid.uuid4().hex[:12] + "\n")
        self._image = wandb.Image
        self._run = wandb.init(
            project=config.log.wandb_project,
            name=path.parent.name,
            id=path.read_text().strip(),
            resume="allow",
            mode=config.log.wandb,
            dir=str(path.parent),
            config=config_lib.leaves(config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Writes numbers; W&B groups them by the first part of their names."""
        self._run.log({name: float(value) for name, value in scalars.items()}, step=step)

    def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes pictures."""
        self._run.log({name: self._image(image) for name, image in images.items()}, step=step)

    def close(self) -> None:
        """Ends the run of W&B; waits until all is written."""
        self._run.finish()
