"""Backbones from files: those of other programs, and those that the job `export` wrote.

A file is .safetensors or .npz, and holds a ResNet under the names that `models.torch_names` knows.
Its name may be that of its folder, if it is `model.safetensors` there. `config.json` beside it may
say more: what timm writes (`pretrained_cfg`: mean, std, input size), and what the export adds.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.config import schema
from iecl_jax.data.sources import tfds
from iecl_jax.models import torch_names
from iecl_jax.run import seal, weights_file

MODEL, FACTS = "model.safetensors", "config.json"
_BIN = "pytorch_model.bin"  # a hub's pickle, which is refused with the line that converts it
OWN = "iecl_jax"  # the section of FACTS that the export adds to what timm reads
_SIZES = {"imagenet": 224, "cifar": 32}  # pixels, where nothing says what the network was made for


def is_foreign(path: Path) -> bool:
    """Returns whether a path names a file of weights, or a folder with one; it may be missing."""
    return weights_file.is_weights(path) or any((path / name).is_file() for name in (MODEL, _BIN))


def load(path: Path) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """Returns what `checkpoint.load_for_evaluation` does, for a file or its folder.

    The config is that of a pretraining with this encoder, whose method has nothing besides. Its
    images are those that FACTS names, and else ImageNet's. The weights have only the encoder.

    Raises:
      ValueError: the file cannot be read, is no ResNet, or FACTS does not fit it.
    """
    file = path
    if path.is_dir():
        file = path / (MODEL if (path / MODEL).is_file() else _BIN)
    arrays = weights_file.read(file)
    facts = weights_file.read_facts(file.with_name(FACTS))
    own = _section(facts, OWN)
    encoder = _section(own, "encoder")
    try:
        found, params, stats = torch_names.from_torch(
            arrays, with_fc=bool(encoder.get("feature_dim"))
        )
    except ValueError as error:
        raise ValueError(f"{file} {error}: name another file, or repair this one.") from error
    if "digest" in own and own["digest"] != seal.digest(arrays):
        raise ValueError(
            f"{file} is not the file that {FACTS} beside it describes (another digest): export it "
            "again, or take the JSON away."
        )
    logging.debug("%s is %s", file, found)
    values = {
        "method": {"name": "simclr"},
        "saib": {"enabled": False},
        "objective": {"kl": {"weight": 0.0}, "entropy": {"weight": 0.0}},
        "encoder": {**encoder, "spectral_norm": False, **found._asdict()},
        "data": _data(file.with_name(FACTS), facts, _SIZES[found.stem]),
    }
    config = schema.from_dict(values)
    config_lib.check_pretrain(config, num_devices=1)
    weights = {"params": {"online": {"encoder": params}}}
    weights["method_state"] = {"online": {"encoder": stats}}
    return config, {"step": _section(own, "trained").get("steps", 0), **weights}


def _section(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = facts.get(name)
    return dict(found) if isinstance(found, dict) else {}


def _data(path: Path, facts: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Returns the settings of `config.data` that the facts give; `size` is that without any."""
    timm = _section(facts, "pretrained_cfg")
    try:
        *_, height, width = timm.get("input_size", (size, size))
        if height != width:
            raise ValueError(f"input_size {timm['input_size']} is no square")
        mean, std = (tuple(timm.get(k, v)) for k, v in (("mean", tfds.MEAN), ("std", tfds.STD)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"pretrained_cfg of {path} cannot be used ({error}): repair it.") from None
    own = _section(_section(facts, OWN), "data")
    return {"name": "imagenet2012", **own, "image_size": height, "mean": mean, "std": std}
