"""The step of a config as a program, from shapes alone: its FLOPs, memory and collectives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iecl_jax import config as config_lib
from iecl_jax.data.split import MAX_NATIVE_SIZE
from iecl_jax.tools.benchmark import hlo
from iecl_jax.tools.benchmark.flops import product_flops
from iecl_jax.train.experiment import Experiment, build
from iecl_jax.train.step import AXIS

NUM_CLASSES = 10  # of the online probe where no data set is opened
CROPPED_ON_HOST = ("imagenet2012", "imagenet100", "image_folder")


class Prepared(NamedTuple):
    """A pretraining config and its experiment.

    Attributes:
      config: resolved, checked, and without warm-up.
      experiment: of it, for 10**6 steps.
    """

    config: ml_collections.ConfigDict
    experiment: Experiment


def prepare(
    config: ml_collections.ConfigDict, num_devices: int, num_classes: int = NUM_CLASSES
) -> Prepared:
    """Nothing is compiled; ValueError if the config is impossible or not for pretraining."""
    if config.job != "pretrain":
        raise ValueError(f"job={config.job!r} has no training step: name a pretraining config.")
    config = config.copy_and_resolve_references()
    config.schedule.warmup_epochs = 0.0
    config_lib.check(config, num_devices)
    experiment = build(config, total_steps=10**6, steps_per_epoch=10**5, num_classes=num_classes)
    return Prepared(config, experiment)


def cropped_on_host(config: ml_collections.ConfigDict) -> bool:
    """Whether the data set's images are large or of varying sizes, so that the host crops them."""
    return config.data.name in CROPPED_ON_HOST or config.data.image_size > MAX_NATIVE_SIZE


def batch_shapes(
    config: ml_collections.ConfigDict, num_devices: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch as `data.TrainBatches` yields it.

    {"image": uint8 [D, b, S, S, 3] for a data set of small images, [D, b, 2, S, S, 3] for crops
    made on the host; "label": int32 [D, b]}.
    """
    per_device = (num_devices, config.train.batch_size // num_devices)
    size = config.data.image_size
    views = (2,) if cropped_on_host(config) else ()
    return {
        "image": jax.ShapeDtypeStruct((*per_device, *views, size, size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(per_device, np.int32),
    }


def trace(prepared: Prepared, devices: Sequence[Any]) -> jax.stages.Traced:
    """Traces a single step, mapped over `devices` as `experiment.step` is; no array is made.

    Args:
      prepared: the batch of its config is that of all devices together.
      devices: `jax.devices()`, or those of a `jax.experimental.topologies` description, which need
        not be attached.
    """
    mesh = Mesh(np.array(devices), (AXIS,))
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)

    def placed(tree, spec):
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    def of_device(state, batch, seed):
        return prepared.experiment.pure_step(state, jax.tree.map(lambda x: x[0], batch), seed)

    mapped = jax.shard_map(
        of_device,
        mesh=mesh,
        in_specs=(everywhere, split, everywhere),
        out_specs=(everywhere, everywhere),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0).trace(
        placed(jax.eval_shape(prepared.experiment.create_state), everywhere),
        placed(batch_shapes(prepared.config, len(devices)), split),
        placed(jax.ShapeDtypeStruct((), np.uint32), everywhere),
    )


def arithmetic(
    traced: jax.stages.Traced, lowered: jax.stages.Lowered, images: int
) -> dict[str, float]:
    """FLOPs of a step for each image.

    Args:
      traced: of `trace`.
      lowered: `traced.lower()`.
      images: of one device.

    Returns:
      "flops_per_image": by XLA's cost analysis of the program before its optimisation, where every
      convolution is one still (the compiled program of a GPU hides them in calls of cuDNN); not for
      devices that are not attached, whose backend has no such analysis.
      "product_flops_per_image": see `flops.product_flops`, the numerator of the utilisation.
    """
    found = {"product_flops_per_image": product_flops(traced.jaxpr.jaxpr) / images}
    costs = lowered.cost_analysis()
    return found | ({"flops_per_image": costs["flops"] / images} if costs else {})


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes on each device, by XLA's analysis of the compiled step.

    Returns:
      "memory_argument_bytes": state, batch and seed; "memory_output_bytes": new state and metrics;
      "memory_aliased_bytes": outputs in the place of donated arguments; "memory_temporary_bytes":
      everything in between; "memory_total_bytes": arguments + outputs - aliased + temporaries. Not
      in it: what cuDNN and NCCL allocate, batches that wait, and a data set cached on the device.
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
    """Compiles the step for `devices` without running it.

    A CPU computes half precision as float32 beside copies in half, which says nothing of a GPU. For
    CPUs such a step is compiled in float32, which bounds its memory from above, and
    "memory_half_bytes", the total with temporaries of half the size, bounds it from below.

    Args:
      config: of pretraining; its batch is that of all devices together.
      devices: see `trace`.

    Returns:
      What `arithmetic` and `memory` do and, for several devices, "collectives_all_reduce" and
      "collectives_all_gather": how many the compiled step has.

    Raises:
      ValueError: the config is impossible or not for pretraining.
    """
    half = config.train.precision != "float32" and devices[0].platform == "cpu"
    if half:
        config = config.copy_and_resolve_references()
        config.train.precision = "float32"
    traced = trace(prepare(config, len(devices)), devices)
    lowered = traced.lower()
    images = config.train.batch_size // len(devices)
    compiled = lowered.compile()
    found: dict[str, Any] = arithmetic(traced, lowered, images) | memory(compiled)
    if len(devices) > 1:
        sent = [each.kind for each in hlo.collectives(compiled.as_text())]
        for kind in ("all-reduce", "all-gather"):
            found[f"collectives_{kind.replace('-', '_')}"] = sent.count(kind)
    if half:
        found["memory_half_bytes"] = (
            found["memory_total_bytes"] - found["memory_temporary_bytes"] // 2
        )
    return found
