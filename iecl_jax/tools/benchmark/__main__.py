"""Measures the training of one or several configs and prints Markdown tables.

    python -m iecl_jax.tools.benchmark --config=A [--config=B ...] [--rounds=5] [--json=FILE]

A config is FILE[:VARIANT]. `--config.KEY=VALUE` changes a setting of every config. `--only` selects
some of these parts:

  step     the training step with its augmentation, on one batch that is already on the devices;
           a call takes train.steps_per_call steps
  augment  only the augmentation of the step
  input    only the input pipeline, up to batches on the devices
  loop     the step with batches from the input pipeline; its metrics are fetched and checked as in
           training
  program  memory and FLOPs of the compiled step, which is compiled once more for this. With `step`,
           also its share of the speed of a matrix product and of convolutions

The first call of each part compiles and is not timed. Then the configs take turns, `steps` calls
each; every other round goes backwards (A B, B A, ...), so that a machine that slows down favours no
config. Every call is timed, from the end of the previous call. The next call is dispatched before
that, so the device never waits for the host. A ratio compares two times of the same round.

Evaluations and checkpoints are not measured. If a data set is missing, generated images replace it,
and the output says so. TensorFlow is not needed.

`--trace=DIR` writes a profile of a few more steps for TensorBoard and ui.perfetto.dev.

`--memory` only compiles the step and prints the memory that each device needs; nothing runs. With
XLA_FLAGS=--xla_force_host_platform_device_count=8 it compiles for eight devices on a CPU.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import console, data
from iecl_jax.config import own_files, rules
from iecl_jax.run import runtime
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import images, parts, program, report, roofline, timing

PROGRAM = "program"
CHOICES = (*report.PARTS, PROGRAM)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process. `only` becomes a tuple of CHOICES."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", action="append", required=True, help="FILE[:VARIANT]")
    timing.add_flags(parser, rounds=5, steps=10)
    parser.add_argument("--only", default=",".join(CHOICES), help="comma-separated, default all")
    parser.add_argument(
        "--json", type=arguments.new_file, help="also write the results to this file"
    )
    parser.add_argument("--trace", type=arguments.new_folder, help="write a profile to this folder")
    parser.add_argument("--memory", action="store_true", help="compile and run nothing")
    args = parser.parse(argv)
    if args.rounds < 1 or args.steps < 1:
        parser.error(f"--rounds={args.rounds} and --steps={args.steps} must be at least 1.")
    args.only = tuple(args.only.split(","))
    for name in args.only:
        try:
            rules.one_of("--only", name, CHOICES)
        except ValueError as error:
            parser.error(str(error))
    if args.trace and "step" not in args.only:
        parser.error("--trace is of the step: add it to --only.")
    return args


def measure(
    configs: Sequence[ml_collections.ConfigDict], args: argparse.Namespace
) -> list[report.Record]:
    """Measures the parts in `args.only` of each config; raises ValueError for an invalid one."""
    configs = [program.prepare(config, jax.device_count()).config for config in configs]
    records: list[report.Record] = [{} for _ in configs]
    read: list[tuple[ml_collections.ConfigDict, data.Split]] = []
    if {"input", "loop"} & set(args.only):
        for config, record in zip(configs, records, strict=True):
            readable, split, note = images.open_images(config)
            read.append((readable, split))
            record |= {"input_images": split.name} | ({"note": note} if note else {})
    timed: dict[str, list[Any]] = {}
    if {"step", "loop"} & set(args.only):
        classes = [split.num_classes for _, split in read] or [program.NUM_CLASSES] * len(configs)
        with console.waiting("Compiling the training step"):
            timed["step"] = [parts.TimedStep(*pair) for pair in zip(configs, classes, strict=True)]
    if "augment" in args.only:
        with console.waiting("Compiling the augmentation"):
            timed["augment"] = [parts.TimedAugmentation(config) for config in configs]
    if "input" in args.only:
        timed["input"] = [parts.TimedInput(*each) for each in read]
    if "loop" in args.only:
        pairs = zip(read, timed["step"], strict=True)
        timed["loop"] = [parts.TimedLoop(*each, step) for each, step in pairs]

    for part in report.PARTS:
        if part in args.only:
            contestants = [functools.partial(each.durations, args.steps) for each in timed[part]]
            what = f"Measuring the {part}"
            for i, times in enumerate(timing.alternate(contestants, args.rounds, what=what)):
                records[i] |= report.speed(part, times, configs[i].train.batch_size)
        if part == "step" and part in args.only:
            report.compare(records)
            for record, step in zip(records, timed["step"], strict=True):
                record["compile_seconds"] = step.compile_seconds
            if len(records) == 1:
                records[0] |= parts.peak_memory()
    if args.trace:
        parts.trace(timed["step"], args.trace, parts.TRACED_STEPS)
    if PROGRAM in args.only:
        for record, config in zip(records, configs, strict=True):
            with console.waiting("Compiling the training step, for its memory and FLOPs"):
                analysis = program.analyse(config, jax.devices())
            peak = {
                "peak_memory_bytes": analysis["memory_total_bytes"],
                "peak_memory_from": "xla",
            }
            # A peak that the device's allocator measured, if there is one, takes precedence.
            record |= peak | analysis | record
            if "step" in args.only:
                with console.waiting("Measuring products and convolutions"):
                    record |= roofline.measure(config)
                record |= report.utilisation(record)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the configs of the command line and prints the tables."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    runtime.configure()
    command = shlex.join(["python", "-m", "iecl_jax.tools.benchmark", *argv])
    with own_files.sentences():
        configs = [config_lib.load(name, args.overrides) for name in args.config]
        if args.memory:
            with console.waiting("Compiling the training step, for its memory and FLOPs"):
                found = [program.analyse(config, jax.devices()) for config in configs]
        else:
            found = measure(configs, args)
    described = [
        report.describe(config, name, args.overrides, command)
        for config, name in zip(configs, args.config, strict=True)
    ]
    records = [left | right for left, right in zip(described, found, strict=True)]
    if args.json:
        report.write_json(args.json, records)
    for table in (report.format_speeds(records), report.format_facts(records)):
        if table:
            print(table)
    for record in records:
        if "note" in record:
            print(f"{record['config']}: {record['note']}")
    print(f"{records[0]['device']}; {records[0]['versions']}")
    print(command)


if __name__ == "__main__":
    main()
