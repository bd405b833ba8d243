"""The job `export`: writes the encoder of a checkpoint for other programs, with what it needs.

A folder gets two files, the model and `config.json`. The JSON has the keys that timm and model hubs
read, and a section of its own: the encoder's settings, its images, how it was trained, and a digest
of the weights. `run.foreign` reads the folder back.
"""

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax import export as jax_export

import iecl_jax
from iecl_jax import config as config_lib
from iecl_jax import console, data, methods
from iecl_jax.config import kinds, own_files
from iecl_jax.data import augment, files
from iecl_jax.data.split import MAX_NATIVE_SIZE
from iecl_jax.evals.parts.encoder import SplitEncoder
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.models import build, torch_names
from iecl_jax.models.conv import folded
from iecl_jax.models.encoders.resnet import ResNet
from iecl_jax.run import foreign, weights_file
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.seal import digest

# What of config.data and config.encoder says nothing about the images or the network as such.
_OF_MACHINE = (
    *("dir", "cache", "num_threads", "num_workers", "prefetch", "image_size", "mean", "std"),
)
_OF_TRAINING = ("name", "bn_group", "init_from", "spectral_norm", "remat", "zero_init_residual")


class Network(NamedTuple):
    """An encoder with fixed weights, without spectral normalisation, in float32.

    Attributes:
      config: the pretraining config, changed to that.
      params, stats: the encoder's variables on the host.
      trained: how it was trained, for a reader.
    """

    config: ml_collections.ConfigDict
    params: Any
    stats: Any
    trained: dict[str, Any]

    def features(self, pixels: Any) -> jax.Array:
        """Returns the features float32 [b, F] of pixels uint8 [b, S, S, 3]."""
        size = self.config.data.image_size
        transform = augment.make_eval_transform(size, *data.statistics(self.config.data))
        variables = {"params": self.params, "batch_stats": self.stats}
        variables = jax.tree.map(jnp.asarray, variables)
        outputs: Any = build.encoder(self.config).apply(variables, transform(pixels), train=False)
        return outputs["pooled"]


def run(config: ml_collections.ConfigDict, run_dir: str) -> None:
    """Writes the encoder of `config.checkpoint` to `run_dir`, in the format `config.format`.

    Raises:
      ValueError: a setting is invalid, the folder has an export, the format does not fit the
        encoder, or jax2onnx is missing.
    """
    config_lib.check(config, jax.local_device_count())
    folder, (name, write) = Path(run_dir), _FORMATS[config.format]
    for each in (name, foreign.FACTS):
        if (folder / each).exists():
            raise ValueError(f"{folder} has a {each}, which stays: name another --workdir.")
    if config.format == "onnx":
        _require_jax2onnx()
    with console.waiting(f"Reading {config.checkpoint or 'the untrained network'}"):
        network = _network(config, run_dir)
    facts = _facts(network)
    if jax.process_index() != 0:
        return
    with console.waiting(f"Writing {folder / name}"):
        content, more = write(network)
        facts[foreign.OWN] |= more
        with files.open_whole(folder / name) as file:
            file.write(content)
        # Last: a folder with these facts is whole.
        with files.open_whole(folder / foreign.FACTS, "w") as file:
            file.write(json.dumps(facts, indent=2) + "\n")
    console.show(f"{network.trained['what']}: {folder / name}, {len(content):,} bytes")


def _network(config: ml_collections.ConfigDict, run_dir: str) -> Network:
    if config.checkpoint:
        pretrain, weights = load_for_evaluation(config.checkpoint, best=config.best)
    else:
        pretrain, weights = ml_collections.ConfigDict(config.pretrain.to_dict()), {}
    config_lib.check_pretrain(pretrain, num_devices=1)
    if not weights:
        method = methods.make(pretrain, total_steps=1)
        encoder = SplitEncoder(pretrain, method)
        made = Subject(pretrain, method, encoder, run_dir, pretrain.seed).untrained()
        weights = {"step": 0, "params": made.params, "method_state": made.method_state}
    params = weights["params"]["online"]["encoder"]
    stats = weights["method_state"].get("online", {}).get("encoder", {})
    trained = _trained(config.checkpoint, pretrain, weights)
    pretrain.train.precision = "float32"
    if pretrain.encoder.get("spectral_norm"):
        pretrain.encoder.spectral_norm = False
        params, stats = jax.jit(folded)(params, stats)
    params, stats = jax.device_get((params, stats))
    return Network(pretrain, params, stats, trained)


def _trained(
    checkpoint: str, pretrain: ml_collections.ConfigDict, weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns how a network was trained; of a foreign one, only its file is known."""
    if checkpoint and foreign.is_foreign(Path(checkpoint).expanduser()):
        return {"what": f"the ResNet of {Path(checkpoint).name}"}
    return {
        "what": config_lib.trained(pretrain),
        "images": kinds.stem(pretrain.data.name),
        "steps": int(weights["step"]),
        "batch_size": pretrain.train.batch_size,
        "seed": pretrain.seed,
        "params_digest": digest(weights["params"]),
    }


def _facts(network: Network) -> dict[str, Any]:
    """Returns the content of config.json; `pretrained_cfg` has the names of timm."""
    config = network.config
    size, (mean, std) = config.data.image_size, data.statistics(config.data)
    module = build.encoder(config)
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    width = jax.eval_shape(network.features, pixels).shape[-1]
    before = width
    if isinstance(module, ResNet):
        before = module.width * 2 ** (len(module.stages) - 1) * (4 if module.bottleneck else 1)
    shown = {name: x for name, x in config.data.items() if name not in _OF_MACHINE}
    own = {
        "version": iecl_jax.__version__,
        "encoder": {name: x for name, x in config.encoder.items() if name not in _OF_TRAINING},
        "trained": network.trained,
    }
    if not own_files.names_files(ml_collections.ConfigDict(shown)):  # They are not elsewhere.
        own["data"] = shown
    timm = {
        "input_size": [3, size, size],
        "interpolation": "bilinear",
        # Larger images are cut from 8/7 of the size, smaller ones are taken whole.
        "crop_pct": 0.875 if size > MAX_NATIVE_SIZE else 1.0,
        "crop_mode": "center",
        "mean": list(mean),
        "std": list(std),
        "num_classes": width if width != before else 0,
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return {
        "architecture": kinds.stem(config.encoder.name),
        "num_classes": timm["num_classes"],
        "num_features": before,
        "pretrained_cfg": timm,
        foreign.OWN: own,
    }


def _safetensors(network: Network) -> tuple[bytes, dict[str, Any]]:
    """Returns the bytes of the weights under torchvision's names, and their digest."""
    name = network.config.encoder.name
    if not isinstance(build.encoder(network.config), ResNet):
        raise ValueError(
            f"format='safetensors' has torchvision's names, which only a ResNet has, and the "
            f"encoder is {name}: use --config.format=stablehlo."
        )
    arrays = torch_names.to_torch(network.params, network.stats)
    return weights_file.to_bytes(arrays), {"digest": digest(arrays)}


def _stablehlo(network: Network) -> tuple[bytes, dict[str, Any]]:
    """Returns the serialised program for any number of images, on CPU and CUDA."""
    size = network.config.data.image_size
    (count,) = jax_export.symbolic_shape("b")
    pixels = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
    made = jax_export.export(jax.jit(network.features), platforms=("cpu", "cuda"))(pixels)
    call = "jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read())).call(pixels)"
    return bytes(made.serialize()), {"call": call, "jax": jax.__version__} | _input(size)


def _onnx(network: Network) -> tuple[bytes, dict[str, Any]]:
    """Returns the program as ONNX, for any number of images."""
    import jax2onnx

    size = network.config.data.image_size
    (count,) = jax_export.symbolic_shape("B")
    pixels = jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)
    names = {"input_names": ["pixels"], "output_names": ["features"]}
    model = jax2onnx.to_onnx(network.features, [pixels], **names)
    version = importlib.metadata.version("jax2onnx")
    return model.SerializeToString(), {"jax2onnx": version} | _input(size)


def _input(size: int) -> dict[str, Any]:
    return {"input": f"pixels uint8 [b, {size}, {size}, 3]; mean and std are applied inside"}


def _require_jax2onnx() -> None:
    if importlib.util.find_spec("jax2onnx") is None:
        raise ValueError(
            "format='onnx' needs the package jax2onnx in an environment of its own: make one as "
            "docs/weights.md says, or use --config.format=safetensors and torch.onnx."
        )


# {format: (file, the function that makes its content and further facts)}
_FORMATS: dict[str, tuple[str, Callable[[Network], tuple[bytes, dict[str, Any]]]]] = {
    "safetensors": (foreign.MODEL, _safetensors),
    "stablehlo": ("model.stablehlo", _stablehlo),
    "onnx": ("model.onnx", _onnx),
}
