"""Writes the encoder of a checkpoint for torchvision and timm, for JAX, or as ONNX.

    python -m iecl_jax.main --config=configs/export.py --config.checkpoint=WORKDIR

It lies in WORKDIR/exports/FORMAT. `--config.format` is safetensors, stablehlo or onnx. `:smoke`
writes an untrained tiny network.
"""

import ml_collections

from iecl_jax.configs import common
from iecl_jax.configs.evaluate import evaluation_config


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    _, scale = common.parse_arg(arg, default="checkpoint", choices=["checkpoint"])
    return evaluation_config("export", scale)
