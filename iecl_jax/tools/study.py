"""Runs every setting of a study with every seed, and writes a table of the results.

    python -m iecl_jax.tools.study --config=configs/study.py --workdir=runs/study --seeds=0,1,2

These values of the flags are the defaults. The settings are the SETTINGS of the config file. Each
run is a `python -m iecl_jax.main` in WORKDIR/SETTING/seed-SEED. The means and standard deviations
go to WORKDIR/table.md. The same command resumes unfinished runs. On SIGTERM or Ctrl-C it lets its
runs save and ends with code 75. `--config.KEY=VALUE` and flags after `--` go to every run.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iecl_jax.config import files, own_files, rules
from iecl_jax.run import markdown
from iecl_jax.run.workdir import write_atomically
from iecl_jax.tools import arguments
from iecl_jax.tools.runs import Run, Runner, check, refuse_seed

# Title of the column, format, and dotted name of the number in a run's metrics.
COLUMNS = (
    ("kNN, %", "{:.1f}", "knn_top1"),
    ("linear, %", "{:.1f}", "linear_top1"),
    ("H(q)", "{:.3f}", "diagnostics.entropy_query"),
    ("H(q')", "{:.3f}", "diagnostics.entropy_query_saib"),
    ("log|det J| / n", "{:+.3f}", "diagnostics.log_det"),
    ("min sigma", "{:.3f}", "diagnostics.sigma_min"),
    ("RankMe", "{:.1f}", "diagnostics.rank_me"),
)


def collect(
    workdir: Path, settings: Sequence[str], seeds: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """Returns {setting: metrics of its finished runs with these seeds}; only if there are any."""
    found = {}
    for setting in settings:
        paths = [workdir / setting / f"seed-{seed}" / "results.json" for seed in seeds]
        metrics = [json.loads(path.read_text())["metrics"] for path in paths if path.exists()]
        if metrics:
            found[setting] = metrics
    return found


def format_table(metrics: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Returns a Markdown table, a row per setting: mean ± standard deviation over the seeds."""
    rows = []
    for setting, runs in metrics.items():
        cells = [setting, str(len(runs))]
        for title, text, name in COLUMNS:
            scale = 100 if "%" in title else 1
            values = [scale * value for run in runs if (value := _get(run, name)) is not None]
            cell = text.format(np.mean(values)) if values else ""
            if len(values) > 1:
                cell += f" ± {text.replace('+', '').format(np.std(values, ddof=1))}"
            cells.append(cell)
        rows.append(cells)
    return markdown.table(["setting", "seeds", *(title for title, *_ in COLUMNS)], rows)


def _get(metrics: Any, name: str) -> float | None:
    for part in name.split("."):
        metrics = metrics.get(part, {})
    return metrics if isinstance(metrics, float) else None


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study that the command line names; prints and writes its table."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", default="configs/study.py", help="a file with SETTINGS")
    parser.add_argument("--workdir", type=arguments.new_folder, default=Path("runs/study"))
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--settings", default="", help="comma-separated; default: all")
    parser.add_argument("--processes", type=int, default=1, help="how many runs at the same time")
    args = parser.parse(argv)
    with own_files.sentences():
        known = list(files.run(args.config).get("SETTINGS", {}))
    settings = args.settings.split(",") if args.settings else known
    for setting in settings:
        try:
            rules.one_of("--settings", setting, known)
        except ValueError as error:
            parser.error(str(error))
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds={args.seeds} must be integers, such as 0,1,2.")

    def run_of(setting: str, seed: int) -> Run:
        folder = args.workdir / setting / f"seed-{seed}"
        return Run(f"{args.config}:{setting}", folder, (f"--config.seed={seed}", *args.overrides))

    runs = {f"{name}, seed {seed}": run_of(name, seed) for seed in seeds for name in settings}
    with own_files.sentences():
        refuse_seed(args.overrides)
        check(runs.values())
    with Runner(args.processes, args.workdir / "compiled") as runner:
        succeeded = runner.map(lambda named: runner.complete(*named), runs.items())
    if measured := collect(args.workdir, known, seeds):
        table = format_table(measured)
        write_atomically(args.workdir / "table.md", table)
        print(table, end="")
    runner.leave(succeeded)


if __name__ == "__main__":
    main()
