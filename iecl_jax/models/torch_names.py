"""Our ResNets under the names of torchvision and timm, and back.

A ResNet has the same names in torchvision, timm, and the code of MoCo, SwAV, DINO and VICReg:
`conv1.weight` [out, in, h, w], `bn1.{weight,bias,running_mean,running_var}`,
`layer1.0.conv1.weight`, `layer1.0.downsample.{0,1}.*`, and `fc.*`. They put a prefix before the
names, such as `module.encoder_q.`, and heads beside them.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"
_STEMS = {7: "imagenet", 3: "cifar"}
# The first convolution of the first block. In torch's Sequential of the parts, they have numbers.
_FIRST_BLOCK = re.compile(r"(.*\.)?(layer1|4)\.0\.conv1\.weight")
_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in (1, 2, 3, 4)}}
# Of a pair of networks, the one that follows the other has one of these words in its prefix.
_FOLLOWERS = ("encoder_k", "momentum", "target", "teacher", "ema")
# What follows the features, in the programs whose files are read.
_HEADS = (
    *("fc", "head", "heads", "classifier", "linear", "online_classifier", "mlp", "neck"),
    *("projection_head", "projector", "proj", "predictor", "prototypes", "queue", "queue_ptr"),
)
_SHOWN = 3  # keys in a message


class Architecture(NamedTuple):
    """What the names and shapes of a ResNet say: the settings of `config.encoder` of these names.

    `feature_dim` is the outputs of the layer `fc` if that is a part of the encoder, and else 0.
    """

    name: str
    stem: str
    width: int
    feature_dim: int = 0

    def __str__(self) -> str:
        layer = f" and a layer of {self.feature_dim} features" if self.feature_dim else ""
        return f"{self.name} of width {self.width} with the stem {self.stem!r}{layer}"


def to_torch(params: Any, batch_stats: Any) -> dict[str, np.ndarray]:
    """Returns the variables of a ResNet without spectral normalisation by torchvision's names.

    Kernels become [out, in, h, w] and [out, in]. All are float32, but for the counters
    `num_batches_tracked`, which are int64 zeros. `feature_dim`'s layer becomes `fc`. The running
    variances stay biased, which is no difference in evaluation.
    """
    found = {}
    for path, leaf in _flat(params, batch_stats).items():
        values = np.asarray(leaf, np.float32)
        if path[-1] == "kernel":
            values = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
        found[_torch_name(path)] = np.ascontiguousarray(values)
        if path[-1] == "mean":
            found[f"{_module(path)}.{_COUNTER}"] = np.zeros((), np.int64)
    return found


def from_torch(
    arrays: Mapping[str, np.ndarray], *, with_fc: bool = False
) -> tuple[Architecture, dict[str, Any], dict[str, Any]]:
    """Returns (architecture, params, batch_stats) of the ResNet among named arrays.

    It takes off the prefix, and leaves out heads and all that lies outside the prefix. Of two
    ResNets of which one follows the other (MoCo's `encoder_q` and `encoder_k`), it takes the one
    that is followed.

    Args:
      arrays: arrays by torchvision's names, as the file has them.
      with_fc: whether the layer `fc` is a part of the encoder.

    Raises:
      ValueError: there is no ResNet, or more than one, or keys are missing, unknown or of another
        shape. The message continues a sentence that begins with the name of the file.
    """
    named = _of_one_resnet(arrays, with_fc)
    found = _architecture(named, with_fc)
    shapes = {_torch_name(path): path for path in _paths(found)}
    wanted = {name: _torch_shape(_paths(found)[path]) for name, path in shapes.items()}
    if misfit := _misfit(wanted, {name: each.shape for name, each in named.items()}, found):
        raise ValueError(misfit)
    params: dict[tuple[str, ...], np.ndarray] = {}
    stats: dict[tuple[str, ...], np.ndarray] = {}
    for name, path in shapes.items():
        values = np.asarray(named[name], np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"has values in {name} that are no finite numbers")
        if path[-1] == "kernel":
            values = values.transpose(2, 3, 1, 0) if values.ndim == 4 else values.T
        tree = stats if path[-1] in ("mean", "var") else params
        tree[path] = np.ascontiguousarray(values)
    return found, traverse_util.unflatten_dict(params), traverse_util.unflatten_dict(stats)


def _flat(params: Any, batch_stats: Any) -> dict[tuple[str, ...], Any]:
    return {**traverse_util.flatten_dict(params), **traverse_util.flatten_dict(batch_stats)}


def _module(path: Sequence[str]) -> str:
    """Returns `layer1.0.downsample.1` for ("layer1_0", "downsample_bn", "mean")."""
    module = re.sub(r"^(layer\d+)_(\d+)", r"\1.\2", ".".join(path[:-1]))
    for ours, theirs in (("downsample_conv", "downsample.0"), ("downsample_bn", "downsample.1")):
        module = module.replace(ours, theirs)
    return "fc" if module == "feature" else module


def _torch_name(path: Sequence[str]) -> str:
    return f"{_module(path)}.{_LEAVES[path[-1]]}"


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that torch has for one of ours."""
    if len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    return shape[::-1]


@functools.cache
def _paths(found: Architecture) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Returns the shape of each variable of a ResNet, by its path; nothing is computed."""
    module = ResNet(
        *ARCHITECTURES[found.name],
        stem=found.stem,
        width=found.width,
        feature_dim=found.feature_dim,
    )
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    init = functools.partial(module.init, train=False)
    made: Any = jax.eval_shape(init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in _flat(made["params"], made["batch_stats"]).items()}


def _of_one_resnet(arrays: Mapping[str, np.ndarray], with_fc: bool) -> dict[str, np.ndarray]:
    """Returns the arrays of the ResNet, without prefix, heads and counters."""
    places = {match[1] or "": match[2] for match in map(_FIRST_BLOCK.fullmatch, arrays) if match}
    if not places:
        raise ValueError(
            f"has no key layer1.0.conv1.weight, with or without a prefix, so it is no ResNet; it "
            f"begins with {_listed(arrays)}"
        )
    followed = [each for each in places if not any(word in each for word in _FOLLOWERS)]
    if len(chosen := followed or list(places)) > 1:
        raise ValueError(f"has several ResNets, under {_listed(chosen)}: leave one of them in it")
    (prefix,) = chosen
    found = {}
    for name, values in arrays.items():
        first, _, rest = name.removeprefix(prefix).partition(".")
        if places[prefix] == "4":
            first = _SEQUENTIAL.get(first, first)
        is_head = first in _HEADS and not (with_fc and first == "fc")
        if name.startswith(prefix) and not is_head and not name.endswith(_COUNTER):
            found[f"{first}.{rest}" if rest else first] = values
    return found


def _architecture(named: Mapping[str, np.ndarray], with_fc: bool) -> Architecture:
    """Returns the architecture that the names and shapes show."""
    blocks: dict[int, int] = {}
    for match in filter(None, (re.match(r"layer(\d+)\.(\d+)\.", name) for name in named)):
        layer, block = int(match[1]), int(match[2])
        blocks[layer] = max(blocks.get(layer, 0), block + 1)
    stages = tuple(blocks.get(layer, 0) for layer in range(1, max(blocks) + 1))
    bottleneck = "layer1.0.conv3.weight" in named
    names = [name for name, found in ARCHITECTURES.items() if found == (stages, bottleneck)]
    if not names:
        kind = "bottlenecks" if bottleneck else "basic blocks"
        raise ValueError(
            f"has {', '.join(map(str, stages))} {kind} in its layers, as none of "
            f"{', '.join(ARCHITECTURES)} has"
        )
    stem = named["conv1.weight"].shape if "conv1.weight" in named else ()
    if len(stem) != 4 or stem[1] != 3 or stem[2] != stem[3] or stem[2] not in _STEMS:
        shape = f"conv1.weight of {list(stem)}" if stem else "no conv1.weight"
        raise ValueError(f"has {shape}, where the stem of a ResNet is [width, 3, 7, 7] or 3 x 3")
    dim = named["fc.weight"].shape[0] if with_fc and "fc.weight" in named else 0
    return Architecture(names[0], _STEMS[stem[2]], stem[0], dim)


def _misfit(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], like: Architecture
) -> str:
    """Returns how the keys and shapes of a file differ from those of an architecture, or ""."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{name} {list(found[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in found and found[name] != wanted[name]
    ]
    parts = {"lacks": missing, "has the unknown": unknown, "has other shapes,": shapes}
    told = [f"{words} {_listed(names)}" for words, names in parts.items() if names]
    return f"is no {like}, as its names suggest: it {' and '.join(told)}" if told else ""


def _listed(names: Iterable[str]) -> str:
    """Returns the first few names, and how many there are if these are not all."""
    found = list(names)
    more = f", ... ({len(found)} in all)" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more
