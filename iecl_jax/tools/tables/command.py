"""Measures a table or numerical figure of the paper.

    python -m iecl_jax.tools.tables --table=5 --scale=small --seeds=3 [--workdir=runs/tables]

Tables are 1, 2a, 3, 4, 5, fig3, fig7 and fig8, as configs/tables.py defines them. Scale smoke takes
a few steps on generated images, small trains on CIFAR-10 for two CPU cores, paper is the paper's
scale. Every row is trained with the seeds 0 to SEEDS - 1 in WORKDIR/SCALE/CONFIG/seed-SEED. The
result is printed and written to WORKDIR/SCALE/table-5.md (or fig3.md, ...), with a .json and, for
figures, a .png.

The same command skips finished runs and resumes the others. On SIGTERM or Ctrl-C it lets its runs
save and ends with code 75.

--print_commands only prints the commands, one line per run, for a cluster. After they have run, the
same call without it makes the table. `--config.KEY=VALUE` and flags after `--` go to every
pretraining or time measurement.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iecl_jax.config import own_files, paths, rules
from iecl_jax.config.files import merged
from iecl_jax.evals.pictures import style
from iecl_jax.run.workdir import write_atomically
from iecl_jax.tools import arguments
from iecl_jax.tools.runs import Run, Runner, check, refuse_seed
from iecl_jax.tools.tables import format, pictures, results, times
from iecl_jax.tools.tables.rows import SCALES, Row, Table, at_scale, read_tables, trainings

CONFIG = "configs/tables.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the table that the command line names; prints and writes it."""
    args, table = _parse(argv)
    folder = args.workdir / args.scale
    with own_files.sentences():
        _check(args, table, folder)
    if args.print_commands:
        print("\n".join(commands(table, args.scale, args.seeds, folder, args.overrides)))
        return
    with own_files.sentences():
        paths.refuse_unmakeable("--workdir", args.workdir)
    with Runner(args.processes, args.workdir / "compiled") as runner:
        measure = _measure_times if table.kind == "time" else _measure_accuracies
        rows, succeeded = measure(runner, table, args.scale, args.seeds, folder, args.overrides)
    if not any(row.get("seeds") or row.get("step_ms") for row in rows):
        runner.leave(succeeded)
    shown = ("title", "source", "kind", "change", "corner", "averages", "notes")
    document: dict[str, Any] = {name: getattr(table, name) for name in shown}
    document |= {"scale": args.scale, "command": _command(args, table), "rows": rows}
    page = format.page(document)
    picture = pictures.draw(document)
    path = folder / (args.table if args.table.startswith("fig") else f"table-{args.table}")
    if picture is not None:
        style.save(picture, path.with_suffix(".png"))
        page += f"\n![{table.title}]({path.name}.png)\n"
    write_atomically(path.with_suffix(".md"), page)
    write_atomically(path.with_suffix(".json"), json.dumps(document, indent=2))
    print(page, end="")
    runner.leave(succeeded)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Table]:
    parser = arguments.Parser(__doc__)
    parser.add_argument("--table", required=True, help="1, 2a, 3, 4, 5, fig3, fig7 or fig8")
    parser.add_argument("--scale", required=True, help=", ".join(SCALES))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds; not for times")
    parser.add_argument("--workdir", type=arguments.folder, default=Path("runs/tables"))
    parser.add_argument("--processes", type=int, default=1, help="how many runs at the same time")
    parser.add_argument(
        "--print_commands", action="store_true", help="print the commands, run nothing"
    )
    parser.add_argument("--config", default=CONFIG, help="a file with TABLES")
    args = parser.parse(argv)
    try:
        tables = read_tables(args.config)
        rules.one_of("--table", args.table, tables)
        rules.one_of("--scale", args.scale, SCALES)
    except ValueError as error:
        parser.error(str(error))
    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} must be at least 1.")
    if tables[args.table].kind == "time" and args.processes > 1:
        parser.error(f"--processes={args.processes} would disturb what is timed: leave it at 1.")
    return args, tables[args.table]


def _check(args: argparse.Namespace, table: Table, folder: Path) -> None:
    """Raises ValueError for an override that does not fit, before anything is measured."""
    refuse_seed(args.overrides)
    if table.kind == "time":
        for call in times.calls(table, args.scale, folder, args.overrides):
            check(Run(config, folder, call.overrides) for config in call.configs)
    else:
        jobs = _jobs(table, args.scale, 1, folder, args.overrides)
        check(run for _, _, runs in jobs for run in runs)


def _command(args: argparse.Namespace, table: Table) -> str:
    """Returns the call that made a table, without the folder of the data."""
    shown = [f"--table={args.table}", f"--scale={args.scale}"]
    shown += [] if table.kind == "time" else [f"--seeds={args.seeds}"]
    shown += [] if args.config == CONFIG else [f"--config={args.config}"]
    extra = [flag for flag in args.overrides if not flag.startswith("--config.data.dir=")]
    return shlex.join(["python", "-m", "iecl_jax.tools.tables", *shown, *extra])


def commands(table: Table, scale: str, seeds: int, folder: Path, extra: Sequence[str]) -> list[str]:
    """Returns the shell commands that measure a table, one for each run or time measurement.

    Args:
      table: the table to measure.
      scale: one of SCALES.
      seeds: number of seeds.
      folder: the folder for runs of this scale.
      extra: flags for every pretraining or measurement.
    """
    if table.kind == "time":
        return [
            f"mkdir -p {shlex.quote(str(call.path.parent))} && "
            + shlex.join(["python", *call.arguments()])
            for call in times.calls(table, scale, folder, extra)
        ]
    return [
        " && ".join(shlex.join(["python", *run.arguments()]) for run in runs)
        for _, _, runs in _jobs(table, scale, seeds, folder, extra)
    ]


def _jobs(
    table: Table, scale: str, seeds: int, folder: Path, extra: Sequence[str]
) -> list[tuple[Row, int, list[Run]]]:
    flags = merged([*table.flags.get(scale, ()), *extra])
    return [
        (row, seed, trainings(row, seed, scale, folder, flags))
        for seed in range(seeds)
        for row in table.rows_at(scale)
    ]


def _measure_accuracies(
    runner: Runner, table: Table, scale: str, seeds: int, folder: Path, extra: Sequence[str]
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Returns (the rows of the JSON, whether each run succeeded)."""

    def complete(job: tuple[Row, int, list[Run]]) -> bool:
        row, seed, runs = job
        names = [f"{row.label}, seed {seed}{part}" for part in ("", ", linear evaluation")]
        return all(runner.complete(name, run) for name, run in zip(names, runs))

    jobs = _jobs(table, scale, seeds, folder, extra)
    succeeded = runner.map(complete, jobs)
    labels = ["", *(row.label for row in table.rows)]
    measured: dict[str, dict[int, Any]] = {label: {} for label in labels}
    for (row, seed, runs), done in zip(jobs, succeeded, strict=True):
        if done:
            measured[row.label][seed] = results.read(runs)
    rows = [
        results.record(
            row, at_scale(row.config, scale), measured[row.label], measured[row.compared_with]
        )
        for row in table.rows
    ]
    return rows, succeeded


def _measure_times(
    runner: Runner, table: Table, scale: str, seeds: int, folder: Path, extra: Sequence[str]
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Returns (the rows of the JSON, whether each measurement succeeded); ignores the seeds."""
    calls = times.calls(table, scale, folder, extra)
    succeeded = runner.map(lambda call: times.measure(runner, call), calls)
    images = table.images.get(scale)
    rows = [row for call in calls for row in times.records(call, images)]
    return rows, succeeded
