"""Writes the encoder of a checkpoint for torchvision and timm, for JAX, or as ONNX.

    python -m iecl_jax.main --config=configs/export.py --config.checkpoint=WORKDIR

It lies in WORKDIR/exports/FORMAT. `--config.format` is safetensors, stablehlo or onnx. `:smoke`
writes an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import evaluate


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    return evaluate.checkpoint_config("export", arg)[0]
