"""python -m iecl_jax.study [--config=configs/study.py] [--workdir=runs/study] [--seeds=0,1,2]

Runs every setting of a config file's SETTINGS with every seed, each a `python -m iecl_jax.main` of
its own in WORKDIR/SETTING/seed-SEED, and writes the measured means and deviations to
WORKDIR/table.md. Started again, it skips what is done and resumes what is not. What follows `--` is
handed on to every run (`-- --config.data.dir=DIR`).
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "kNN, %": ("{:.1f}", lambda m: 100 * m["knn_top1"]),
    "linear, %": ("{:.1f}", lambda m: 100 * m["linear_top1"]),
    "H(q)": ("{:.3f}", lambda m: m["diagnostics"]["entropy_query"]),
    "H(q')": ("{:.3f}", lambda m: m["diagnostics"].get("entropy_query_saib")),
    "log|det J| / n": ("{:+.3f}", lambda m: m["diagnostics"].get("log_det")),
    "min sigma": ("{:.3f}", lambda m: m["diagnostics"].get("sigma_min")),
    "RankMe": ("{:.1f}", lambda m: m["diagnostics"]["rank_me"]),
}


def run_one(config: str, setting: str, seed: int, folder: Path, extra: Sequence[str]) -> bool:
    """Runs or resumes one training, its console in FOLDER/log.txt; False if it failed."""
    if (folder / "results.json").exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "iecl_jax.main", f"--config={config}:{setting}"]
    command += [f"--config.seed={seed}", f"--workdir={folder}", *extra]
    # The seed is no part of a compiled program, so the seeds of a setting share them.
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent.parent.absolute() / "compiled")}
    with (folder / "log.txt").open("a") as log:
        code = subprocess.run(
            command, stdout=log, stderr=log, check=False, env=cache | dict(os.environ)
        ).returncode
    said = "done" if code == 0 else f"failed with exit code {code}, see {folder / 'log.txt'}"
    print(f"{setting}, seed {seed}: {said}", flush=True)
    return code == 0


def collect(workdir: Path, settings: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Setting -> the metrics of its finished runs, in the order of their seeds."""
    found = {}
    for setting in settings:
        paths = sorted(
            (workdir / setting).glob("seed-*/results.json"),
            key=lambda path: int(path.parent.name.removeprefix("seed-")),
        )
        found[setting] = [json.loads(path.read_text())["metrics"] for path in paths]
    return found


def format_table(metrics: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Markdown: a row a setting, mean ± standard deviation over seeds; empty if not measured."""
    lines = [
        f"| setting | seeds | {' | '.join(name.replace('|', chr(92) + '|') for name in COLUMNS)} |",
        f"|---|---:|{'---:|' * len(COLUMNS)}",
    ]
    for setting, runs in metrics.items():
        cells = [setting, str(len(runs))]
        for text, value_of in COLUMNS.values():
            values = [value for run in runs if (value := value_of(run)) is not None]
            cell = text.format(np.mean(values)) if values else ""
            if len(values) > 1:
                cell += f" ± {text.replace('+', '').format(np.std(values, ddof=1))}"
            cells.append(cell)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the study that the command line names, prints the table and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/study.py", help="a file with SETTINGS")
    parser.add_argument("--workdir", type=Path, default=Path("runs/study"))
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--settings", default="", help="comma-separated; default: all")
    parser.add_argument("--processes", type=int, default=1, help="runs side by side")
    parser.add_argument("extra", nargs="*", help="flags for every run, after --")
    args = parser.parse_args(argv)
    if not Path(args.config).is_file():
        parser.error(f"there is no config file {args.config!r}: see configs/.")
    known = list(runpy.run_path(args.config).get("SETTINGS", {}))
    settings = args.settings.split(",") if args.settings else known
    for setting in settings:
        if setting not in known:
            parser.error(f"setting {setting!r} is unknown: use some of {', '.join(known)}.")
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        parser.error(f"--seeds={args.seeds} must be integers, such as 0,1,2.")

    def run(job: tuple[int, str]) -> bool:
        seed, setting = job
        folder = args.workdir / setting / f"seed-{seed}"
        return run_one(args.config, setting, seed, folder, args.extra)

    with ThreadPoolExecutor(args.processes) as pool:
        succeeded = list(pool.map(run, [(seed, name) for seed in seeds for name in settings]))
    table = format_table(collect(args.workdir, settings))
    (args.workdir / "table.md").write_text(table)
    print(table, end="")
    if not all(succeeded):
        sys.exit(f"error: {succeeded.count(False)} runs failed; start again to resume them.")


if __name__ == "__main__":
    main()
