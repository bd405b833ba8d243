"""Analyses the training step as a program, from shapes only: FLOPs, memory, collectives."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.extend.core import Jaxpr

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.data.augment import view_sizes
from iecl_jax.tools.benchmark import hlo
from iecl_jax.tools.benchmark.flops import product_flops
from iecl_jax.train.experiment import Experiment, build

NUM_CLASSES = 10  # classes of the online probe if no data set is opened
NUM_IMAGES = 50_000  # of methods that remember each image


class Prepared(NamedTuple):
    """A pretraining config and its experiment.

    Attributes:
      config: the config, checked, with references resolved and without warm-up.
      experiment: its experiment, for a training of 10**6 steps.
    """

    config: ml_collections.ConfigDict
    experiment: Experiment


def prepare(
    config: ml_collections.ConfigDict, num_devices: int, num_classes: int = NUM_CLASSES
) -> Prepared:
    """Checks a config and builds its experiment. Compiles nothing.

    Raises:
      ValueError: the config is invalid or not for pretraining.
    """
    if config.job != "pretrain":
        raise ValueError(f"job={config.job!r} has no training step: name a pretraining config.")
    config = config.copy_and_resolve_references()
    config.schedule.warmup_epochs = 0.0
    config_lib.check(config, num_devices)
    experiment = build(
        config,
        total_steps=10**6,
        steps_per_epoch=10**5,
        num_classes=num_classes,
        num_images=NUM_IMAGES,
    )
    return Prepared(config, experiment)


def batch_shapes(config: ml_collections.ConfigDict, num_devices: int) -> dict[str, Any]:
    """Returns the shapes of a batch as `data.TrainBatches` yields it.

    Returns:
      {"image": uint8 [D, b, S, S, 3] for a data set of small images, or a list of uint8
      [D, b, S_i, S_i, 3] for crops made on the host; "label" and "index": int32 [D, b]}.
    """
    per_device = (num_devices, config.train.batch_size // num_devices)

    def images(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*per_device, size, size, 3), np.uint8)

    size = config.data.image_size
    crops = [images(each) for each in view_sizes(config.augment, size)]
    return {
        "image": crops if data.cropped_on_host(config.data) else images(size),
        "label": jax.ShapeDtypeStruct(per_device, np.int32),
        "index": jax.ShapeDtypeStruct(per_device, np.int32),
    }


def lower(
    prepared: Prepared, devices: Sequence[Any] | None = None
) -> tuple[Jaxpr, jax.stages.Lowered]:
    """Returns (jaxpr, lowered) of the training step, `Experiment.mapped`, with one batch per call.

    It makes no arrays.

    Args:
      prepared: the config and experiment; the batch size of the config is that of all devices.
      devices: the devices to compile for; None = all. They may come from a
        `jax.experimental.topologies` description and need not be attached.
    """
    step, arguments = _step_and_shapes(prepared, devices)
    return jax.make_jaxpr(step)(*arguments).jaxpr, step.lower(*arguments)


def traced(prepared: Prepared, devices: Sequence[Any]) -> tuple[Jaxpr, Any]:
    """Returns (jaxpr, shapes of the state) of the step for these devices, without lowering it."""
    step, arguments = _step_and_shapes(prepared, devices)
    return jax.make_jaxpr(step)(*arguments).jaxpr, arguments[0]


def _step_and_shapes(
    prepared: Prepared, devices: Sequence[Any] | None
) -> tuple[Any, tuple[Any, ...]]:
    count = len(devices) if devices is not None else jax.device_count()
    scalars = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.uint32)
    state = prepared.experiment.state_shapes()
    arguments = state, [batch_shapes(prepared.config, count)], *scalars
    return prepared.experiment.mapped(devices), arguments


def num_bytes(tree: Any) -> int:
    """Returns the bytes of the arrays of a tree, which may be shapes and types alone."""
    leaves: Sequence[Any] = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)


def arithmetic(jaxpr: Jaxpr, lowered: jax.stages.Lowered, images: int) -> dict[str, float]:
    """Returns the FLOPs of a step per image.

    Args:
      jaxpr, lowered: what `lower` returned.
      images: number of images on one device.

    Returns:
      "product_flops_per_image": see `flops.product_flops`; the numerator of the utilisation.
      "flops_per_image": XLA's cost analysis of the program before its optimisation. (In the
      compiled program of a GPU, calls of cuDNN hide the convolutions.) On a CPU, Winograd's
      algorithm makes it smaller than the products of direct sums. It is missing for devices
      that are not attached, since their backend has no such analysis.
    """
    found = {"product_flops_per_image": product_flops(jaxpr) / images}
    costs = lowered.cost_analysis()
    return found | ({"flops_per_image": costs["flops"] / images} if costs else {})


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Returns the bytes that each device needs, by XLA's analysis of the compiled step.

    The analysis excludes what cuDNN and NCCL allocate, prefetched batches, and a data set cached on
    the device.

    Returns:
      "memory_argument_bytes": state, batch and seed.
      "memory_output_bytes": new state and metrics.
      "memory_aliased_bytes": outputs that reuse the memory of donated arguments.
      "memory_temporary_bytes": all intermediate values.
      "memory_total_bytes": arguments + outputs - aliased + temporaries.
    """
    stats: Any = compiled.memory_analysis()
    arguments, outputs = stats.argument_size_in_bytes, stats.output_size_in_bytes
    aliased, temporaries = stats.alias_size_in_bytes, stats.temp_size_in_bytes
    return {
        "memory_argument_bytes": arguments,
        "memory_output_bytes": outputs,
        "memory_aliased_bytes": aliased,
        "memory_temporary_bytes": temporaries,
        "memory_total_bytes": arguments + outputs - aliased + temporaries,
    }


def analyse(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> dict[str, Any]:
    """Compiles the step for `devices` without running it, and analyses it.

    A CPU computes half precision in float32 and keeps both kinds of arrays, so its memory says
    nothing about a GPU. For CPUs such a step is therefore compiled in float32: its memory is an
    upper bound. "memory_half_bytes", the total with temporaries of half the size, is a lower bound.

    Args:
      config: a pretraining config; its batch size is that of all devices.
      devices: see `lower`.

    Returns:
      The values of `arithmetic` and `memory`. For several devices also "collectives_all_reduce" and
      "collectives_all_gather", their numbers in the compiled step.

    Raises:
      ValueError: the config is invalid or not for pretraining.
    """
    half = config.train.precision != "float32" and devices[0].platform == "cpu"
    if half:
        config = config.copy_and_resolve_references()
        config.train.precision = "float32"
    jaxpr, lowered = lower(prepare(config, len(devices)), devices)
    images = config.train.batch_size // len(devices)
    compiled: Any = lowered.compile()
    found: dict[str, Any] = arithmetic(jaxpr, lowered, images) | memory(compiled)
    if len(devices) > 1:
        sent = [each.kind for each in hlo.collectives(compiled.as_text())]
        for kind in ("all-reduce", "all-gather"):
            found[f"collectives_{kind.replace('-', '_')}"] = sent.count(kind)
    if half:
        found["memory_half_bytes"] = (
            found["memory_total_bytes"] - found["memory_temporary_bytes"] // 2
        )
    return found
