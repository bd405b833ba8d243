"""Measures the training step of a job that trains on VOC: FLOPs, memory and time.

    python -m iecl_jax.tools.benchmark.voc --config=configs/voc_segmentation.py [--rounds=3]
    python -m iecl_jax.tools.benchmark.voc --config=configs/voc_detection.py --memory

The network is untrained, since its weights change neither. The batch is read once, from
`--config.data.dir`, or from generated images of four classes if that is empty. `--memory` compiles
the step for the devices that are there and takes none. The first call is not timed.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.extend.core import Jaxpr

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.config import kinds, own_files
from iecl_jax.evals.parts import jobs, training
from iecl_jax.evals.parts.training import Task
from iecl_jax.run import command_line, runtime, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import parts, program, report, timing


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", required=True, help="FILE[:VARIANT] of a job that trains")
    parser.add_argument("--memory", action="store_true", help="compile and run nothing")
    parser.add_argument(
        "--json", type=arguments.new_file, help="also write the results to this file"
    )
    timing.add_flags(parser, rounds=3, steps=5)
    args = parser.parse(argv)
    if args.rounds < 1 or args.steps < 1:
        parser.error(f"--rounds={args.rounds} and --steps={args.steps} must be at least 1.")
    return args


def prepare(config: ml_collections.ConfigDict) -> tuple[Task, Any]:
    """Returns (task, settings) of a job that trains, with its untrained network.

    Raises:
      ValueError: the job is invalid, or does not train as `training` does.
    """
    name = kinds.stem(config.job)
    trains = config.job != "pretrain" and "num_steps" in config.get(name, {})
    if not trains:
        raise ValueError(
            f"job={config.job!r} is no training on VOC: name configs/voc_segmentation.py or "
            "configs/voc_detection.py; python -m iecl_jax.tools.benchmark measures pretrainings."
        )
    if not config.data.dir:
        config.data.generated = True
    config_lib.check(config, jax.local_device_count())
    evaluation = kinds.load("evaluation", config.job, key="job")
    subject = jobs.load(config, "")
    evaluation.check(dataclasses.replace(subject, params=None), config[name])
    return evaluation.task_of(subject, config[name]), config[name]


def first_batch(task: Task) -> Any:
    """Returns the first batch: arrays [D, b, ...] on all D devices."""
    with task.open_batches(start=0) as batches:
        return next(batches)


def lower(
    task: Task, settings: Any, devices: Sequence[Any] | None = None
) -> tuple[Jaxpr, jax.stages.Lowered]:
    """Returns (jaxpr, lowered) of the step, for devices that may be only described; None = all."""
    count = len(devices) if devices is not None else jax.device_count()
    images = settings.batch_size // count

    def split(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, images, *leaf.shape[2:]), leaf.dtype)

    step = training.mapped_step(task, settings, devices)
    state = jax.eval_shape(lambda: training.first_state(task, settings))
    batch = jax.tree.map(split, first_batch(task))
    arguments = state, batch, jax.ShapeDtypeStruct((), np.uint32)
    return jax.make_jaxpr(step)(*arguments).jaxpr, step.lower(*arguments)


def measure(task: Task, settings: Any, seed: int, args: argparse.Namespace) -> report.Record:
    """Returns the values of `program.arithmetic` and `program.memory`, and of `report.speed`."""
    step = training.mapped_step(task, settings)
    batch, key = first_batch(task), np.uint32(seed)
    with console.waiting("Compiling the step"):
        jaxpr, lowered = lower(task, settings)
        compiled: Any = lowered.compile()
    count = sum(leaf.size for leaf in jax.tree.leaves(task.params))
    record: report.Record = {"parameters": count} | program.memory(compiled)
    record |= program.arithmetic(jaxpr, lowered, settings.batch_size // jax.device_count())
    if args.memory:
        return record
    current = training.first_state(task, settings)

    def take() -> Any:
        nonlocal current
        current, metrics = step(current, batch, key)
        return metrics

    jax.block_until_ready(take())

    def times() -> list[float]:
        return timing.durations(take, jax.block_until_ready, args.steps)

    measured = timing.alternate([times], args.rounds, what="Measuring the step")[0]
    return record | report.speed("step", measured, settings.batch_size) | parts.peak_memory()


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    args = parse(argv)
    runtime.configure()
    with own_files.sentences():
        config = config_lib.load(args.config, args.overrides)
        task, settings = prepare(config)
        record = measure(task, settings, config.seed, args)
    record |= {"config": args.config, "batch_size": settings.batch_size}
    if args.json:
        report.write_json(args.json, [record])
    for table in (report.format_speeds([record]), report.format_facts([record])):
        if table:
            print(table)
    versions = ", ".join(f"{name} {found}" for name, found in workdir.versions().items() if found)
    print(
        f"{record['parameters']:,} parameters, {settings.image_size} px, {settings.precision}; "
        f"{workdir.device_description()}; {versions}"
    )
    print(command_line.shown(command_line.typed()))


if __name__ == "__main__":
    main()
