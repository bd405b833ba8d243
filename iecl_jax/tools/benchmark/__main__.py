"""python -m iecl_jax.tools.benchmark --config=A [--config=B ...] [--rounds=5] [--json=FILE]

Measures the training of several configs (FILE[:VARIANT]) in one process, on the devices that JAX
finds, and prints Markdown. What follows `--` overrides a key of every config
(`-- --config.train.batch_size=64`). The parts, of which `--only` names some:

  step     the pmapped step with its augmentation, on one batch that is on the devices already,
           train.steps_per_call of them in a call
  augment  its augmentation alone
  input    the input pipeline alone, up to batches on the devices
  loop     the step fed by the input pipeline, its metrics fetched and checked as in training
  program  memory and FLOPs of the compiled step (compiled once more) and, with `step`, its share of
           what a matrix product and convolutions reach

After a first call of each, which compiles, the configs take `steps` batches of a part in turn;
every other round goes backwards (A B, B A, ...), so that a machine that grows slower favours none.
Each call has its own time, from the end of the one before it, while the next one is dispatched
already: the device never waits for the host, and yet there are a median and a 90th percentile. A
ratio is that of two times of the same round. Evaluation and checkpoints are not measured. Where the
data set is missing, generated images stand in, and a line says so. TensorFlow is not needed.

`--trace=DIR` writes a profile of a few more steps for TensorBoard and ui.perfetto.dev.

`--memory` runs nothing and makes no array: it compiles the step for the devices, with
XLA_FLAGS=--xla_force_host_platform_device_count=8 for eight on a CPU, and prints what each needs.
"""

import argparse
import functools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import data
from iecl_jax.run import runtime
from iecl_jax.tools.benchmark import images, parts, program, report, roofline, timing

PROGRAM = "program"
CHOICES = (*report.PARTS, PROGRAM)
TRACED_STEPS = 3


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; `only` is a tuple of CHOICES. A mistake ends the process with a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", action="append", required=True, help="FILE[:VARIANT]")
    timing.add_flags(parser, rounds=5, steps=10)
    parser.add_argument("--only", default=",".join(CHOICES), help="comma-separated, default all")
    parser.add_argument("--json", type=Path, help="where to write the results too")
    parser.add_argument("--trace", type=Path, help="where to write a profile")
    parser.add_argument("--memory", action="store_true", help="compile and run nothing")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.steps < 1:
        parser.error(f"--rounds={args.rounds} and --steps={args.steps} must be at least 1.")
    args.only = tuple(args.only.split(","))
    unknown = sorted(set(args.only) - set(CHOICES))
    if unknown:
        parser.error(f"--only={unknown[0]} is unknown: use some of {', '.join(CHOICES)}.")
    if args.trace and "step" not in args.only:
        parser.error("--trace is of the step: add it to --only.")
    return args


def measure(
    configs: Sequence[ml_collections.ConfigDict], args: argparse.Namespace
) -> list[report.Record]:
    """What `args.only` names, of each config; ValueError if one is impossible."""
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
        timed["step"] = [parts.TimedStep(*pair) for pair in zip(configs, classes, strict=True)]
    if "augment" in args.only:
        timed["augment"] = [parts.TimedAugmentation(config) for config in configs]
    if "input" in args.only:
        timed["input"] = [parts.TimedInput(*each) for each in read]
    if "loop" in args.only:
        pairs = zip(read, timed["step"], strict=True)
        timed["loop"] = [parts.TimedLoop(*each, step) for each, step in pairs]

    for part in report.PARTS:
        if part in args.only:
            contestants = [functools.partial(each.durations, args.steps) for each in timed[part]]
            for i, times in enumerate(timing.alternate(contestants, args.rounds)):
                records[i] |= report.speed(part, times, configs[i].train.batch_size)
        if part == "step" and part in args.only:
            report.compare(records)
            for record, step in zip(records, timed["step"], strict=True):
                record["compile_seconds"] = step.compile_seconds
            if len(records) == 1:
                records[0] |= parts.peak_memory()
    if args.trace:
        parts.trace(timed["step"], args.trace, TRACED_STEPS)
    if PROGRAM in args.only:
        for record, config in zip(records, configs, strict=True):
            analysis = program.analyse(config, jax.devices())
            peak = {
                "peak_memory_bytes": analysis["memory_total_bytes"],
                "peak_memory_from": "xla",
            }
            record |= peak | analysis | record
            if "step" in args.only:
                record |= roofline.measure(config)
                record |= report.utilisation(record)
    return records


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the configs that the command line names, and prints the tables."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    runtime.configure()
    command = shlex.join(["python", "-m", "iecl_jax.tools.benchmark", *argv])
    try:
        configs = [config_lib.load(name, args.overrides) for name in args.config]
        if args.memory:
            found = [program.analyse(config, jax.devices()) for config in configs]
        else:
            found = measure(configs, args)
    except ValueError as error:
        sys.exit(f"error: {error}")
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
