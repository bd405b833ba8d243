"""Measures a table or numerical figure of the paper.

    python -m iecl_jax.tools.tables --table=5 --scale=small --seeds=3 [--workdir=runs/tables]

Tables are 1, 2a, 2b, 3, 4, 5, fig3, fig7 and fig8, as configs/tables.py defines them. Scale smoke
takes a few steps on generated images, small trains on CIFAR-10 for two CPU cores, paper is the
paper's scale. Every row is trained with the seeds 0 to SEEDS - 1 in
WORKDIR/SCALE/CONFIG/seed-SEED, or, where the table has flags at this scale, in
WORKDIR/SCALE/table-5/CONFIG/seed-SEED. The result is printed and written to
WORKDIR/SCALE/table-5.md (or fig3.md, ...), with a .json and, for figures, a .png.

The same command skips finished runs and resumes the others. On SIGTERM or Ctrl-C it lets its runs
save and ends with code 75.

--print_commands only prints the commands, one line per run, for a cluster. After they have run, the
same call without it makes the table. `--config.KEY=VALUE` and flags after `--` go to every
pretraining or time measurement. `--evaluation.KEY=VALUE` goes to the evaluations that follow a
pretraining and have that key: those of Table 2b take the folder of VOC so,
`--evaluation.data.dir=FOLDER`. `--supervised=FILE` gives Table 2b the weights of its supervised row
(docs/weights.md).
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax.config import own_files, paths, rules
from iecl_jax.config.files import merged
from iecl_jax.evals.pictures import style
from iecl_jax.run.checkpoint import load_for_evaluation
from iecl_jax.run.workdir import write_atomically
from iecl_jax.tools import arguments
from iecl_jax.tools.runs import Run, Runner, check, refuse_seed
from iecl_jax.tools.tables import format, pictures, results, times
from iecl_jax.tools.tables.rows import (
    SCALES,
    Row,
    Table,
    at_scale,
    for_each,
    read_tables,
    runs_of,
)

CONFIG = "configs/tables.py"


class Given(NamedTuple):
    """The overrides of the command, `--config.KEY=VALUE`.

    Attributes:
      training: for every pretraining or time measurement.
      evaluation: for the evaluations that have the key.
    """

    training: Sequence[str] = ()
    evaluation: Sequence[str] = ()


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the table that the command line names; prints and writes it."""
    args, table = _parse(argv)
    folder, given = args.workdir / args.scale, Given(args.overrides, args.evaluations)
    # Runs with flags of the table's own are others than those of the same config in a table
    # without.
    of_runs = folder / _name(args) if table.flags.get(args.scale) else folder
    with own_files.sentences():
        _check(args, table, of_runs, given)
    if args.print_commands:
        print("\n".join(commands(table, args.scale, args.seeds, of_runs, given)))
        return
    with own_files.sentences():
        paths.refuse_unmakeable("--workdir", args.workdir)
    with Runner(args.processes, args.workdir / "compiled") as runner:
        measure = _measure_times if table.kind == "time" else _measure_accuracies
        rows, succeeded = measure(runner, table, args.scale, args.seeds, of_runs, given)
    if not any(row.get("seeds") or row.get("step_ms") for row in rows):
        runner.leave(succeeded)
    shown = ("title", "source", "kind", "change", "corner", "averages", "notes")
    document: dict[str, Any] = {name: getattr(table, name) for name in shown}
    document |= {"metrics": table.metrics_at(args.scale), "scale": args.scale}
    document |= {"command": _command(args, table), "rows": rows}
    page = format.page(document)
    picture = pictures.draw(document)
    path = folder / _name(args)
    if picture is not None:
        style.save(picture, path.with_suffix(".png"))
        page += f"\n![{table.title}]({path.name}.png)\n"
    write_atomically(path.with_suffix(".md"), page)
    write_atomically(path.with_suffix(".json"), json.dumps(document, indent=2))
    print(page, end="")
    runner.leave(succeeded)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Table]:
    parser = arguments.Parser(__doc__, evaluations=True)
    parser.add_argument("--table", required=True, help="1, 2a, 2b, 3, 4, 5, fig3, fig7 or fig8")
    parser.add_argument("--scale", required=True, help=", ".join(SCALES))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds; not for times")
    parser.add_argument("--workdir", type=arguments.folder, default=Path("runs/tables"))
    parser.add_argument(
        "--supervised", metavar="FILE", default="", help="weights for the supervised row"
    )
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
        table = tables[args.table]
        if args.supervised:
            table = table.with_supervised(args.supervised)
    except ValueError as error:
        parser.error(str(error))
    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} must be at least 1.")
    if table.kind == "time" and args.processes > 1:
        parser.error(f"--processes={args.processes} would disturb what is timed: leave it at 1.")
    return args, table


def _name(args: argparse.Namespace) -> str:
    """Returns the name of the files of a table."""
    return args.table if args.table.startswith("fig") else f"table-{args.table}"


def _check(args: argparse.Namespace, table: Table, folder: Path, given: Given) -> None:
    """Raises ValueError for an override that does not fit, before anything is measured."""
    refuse_seed(given.training)
    if args.supervised:
        load_for_evaluation(args.supervised)
    if table.kind == "time":
        for_each((), given.evaluation)
        for call in times.calls(table, args.scale, folder, given.training):
            check(Run(config, folder, call.overrides) for config in call.configs)
    else:
        jobs = _jobs(table, args.scale, 1, folder, given)
        check(run for _, _, runs in jobs for run in runs.values())


def _command(args: argparse.Namespace, table: Table) -> str:
    """Returns the call that made a table, without the folders of the data."""
    shown = [f"--table={args.table}", f"--scale={args.scale}"]
    shown += [] if table.kind == "time" else [f"--seeds={args.seeds}"]
    shown += [] if args.config == CONFIG else [f"--config={args.config}"]
    shown += [f"--supervised={Path(args.supervised).name}"] if args.supervised else []
    own = [flag.replace("--config.", "--evaluation.", 1) for flag in args.evaluations]
    folders = ("--config.data.dir=", "--evaluation.data.dir=")
    extra = [flag for flag in [*args.overrides, *own] if not flag.startswith(folders)]
    return shlex.join(["python", "-m", "iecl_jax.tools.tables", *shown, *extra])


def commands(table: Table, scale: str, seeds: int, folder: Path, given: Given) -> list[str]:
    """Returns the shell commands that measure a table, one for each row and seed, or time.

    Args:
      table: the table to measure.
      scale: one of SCALES.
      seeds: number of seeds.
      folder: the folder for the runs.
      given: the overrides.
    """
    if table.kind == "time":
        return [
            f"mkdir -p {shlex.quote(str(call.path.parent))} && "
            + shlex.join(["python", *call.arguments()])
            for call in times.calls(table, scale, folder, given.training)
        ]
    return [
        " && ".join(shlex.join(["python", *run.arguments()]) for run in runs.values())
        for _, _, runs in _jobs(table, scale, seeds, folder, given)
    ]


def _jobs(
    table: Table, scale: str, seeds: int, folder: Path, given: Given
) -> list[tuple[Row, int, dict[str, Run]]]:
    flags = merged([*table.flags.get(scale, ()), *given.training])
    evaluations = for_each(table.evaluations_at(scale), given.evaluation)
    return [
        (row, seed, runs_of(row, seed, scale, folder, flags, evaluations))
        for seed in range(seeds)
        for row in table.rows_at(scale)
    ]


def _measure_accuracies(
    runner: Runner, table: Table, scale: str, seeds: int, folder: Path, given: Given
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Returns (the rows of the JSON, whether each run succeeded)."""

    def complete(job: tuple[Row, int, dict[str, Run]]) -> bool:
        row, seed, runs = job
        about = f"{row.label}, seed {seed}"
        return all(
            runner.complete(", ".join(filter(None, (about, name))), run)
            for name, run in runs.items()
        )

    jobs, metrics = _jobs(table, scale, seeds, folder, given), table.metrics_at(scale)
    succeeded = runner.map(complete, jobs)
    labels = ["", *(row.label for row in table.rows)]
    measured: dict[str, dict[int, Any]] = {label: {} for label in labels}
    for (row, seed, runs), done in zip(jobs, succeeded, strict=True):
        if done:
            measured[row.label][seed] = results.read(list(runs.values()), metrics)
    rows = [
        results.record(
            row,
            at_scale(row.config, scale) if row.config else "",
            metrics,
            measured[row.label],
            measured[row.compared_with],
        )
        for row in table.rows
    ]
    return rows, succeeded


def _measure_times(
    runner: Runner, table: Table, scale: str, seeds: int, folder: Path, given: Given
) -> tuple[list[dict[str, Any]], list[bool]]:
    """Returns (the rows of the JSON, whether each measurement succeeded); ignores the seeds."""
    calls = times.calls(table, scale, folder, given.training)
    succeeded = runner.map(lambda call: times.measure(runner, call), calls)
    images = table.images.get(scale)
    rows = [row for call in calls for row in times.records(call, images)]
    return rows, succeeded
