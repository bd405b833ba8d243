"""Runs all evaluations on a checkpoint, with several seeds, and writes one report.

    python -m iecl_jax.tools.evaluate --checkpoint=RUN [--names=knn,linear] [--seeds=3]

Every evaluation that has no images of its own is run as by `python -m iecl_jax.main`, in
RUN/evals/evaluate/NAME/seed-SEED, where what changes the settings is added to the name. The means
and standard deviations over the seeds go to results.json, report.md and report.html of that folder.
An evaluation that does not fit the network or its images is named there with its reason. An
evaluation on which the seed has no effect runs once.

`--config.KEY=VALUE` goes to every evaluation, and `--config.NAME.KEY=VALUE` to the one of that
name: `--config.data.name=stl10 --config.data.dir=DIR` evaluates on other images. The same command
skips what is finished and resumes the rest. On SIGTERM or Ctrl-C it lets its runs save and ends
with code 75.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iecl_jax import config as config_lib
from iecl_jax.config import files, kinds, own_files
from iecl_jax.run import command_line, default_folder, metrics
from iecl_jax.run.workdir import write_atomically
from iecl_jax.tools import arguments
from iecl_jax.tools.figures import evaluations
from iecl_jax.tools.runs import Run, Runner, check, reason, refuse_seed

_CONFIG = "configs/evaluate.py"
_LAST = ("linear_probe", "finetune")  # which take longest
Key = tuple[str, int]  # the name of an evaluation, and a seed


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluates the checkpoint that the command line names; prints and writes the report."""
    args = _parse(argv)
    with own_files.sentences():
        names = args.names.split(",") if args.names else default_names()
        folder = args.workdir or _folder(args.checkpoint, args.overrides)
        runs = runs_of(args, names, folder)
        check(runs.values())
    with Runner(args.processes, folder / "compiled") as runner:
        done = runner.map(lambda key: runner.complete(f"{key[0]}, seed {key[1]}", runs[key]), runs)
    document = {
        "checkpoint": str(args.checkpoint),
        "command": command_line.shown(command_line.typed()),
        **collect(runs, {key for key, succeeded in zip(runs, done, strict=True) if succeeded}),
    }
    if document["evaluations"]:
        page = evaluations.markdown_page(document)
        write_atomically(folder / "results.json", json.dumps(document, indent=2))
        write_atomically(folder / "report.md", page)
        write_atomically(folder / "report.html", evaluations.html_page(document))
        print(f"\n{page}\nThe report: {folder}/report.html", flush=True)
    # What does not fit is named in the report and no failure, unless nothing fits.
    runner.leave([bool(document["evaluations"]) and not document["failed"]])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="RUN, RUN/checkpoints/STEP or a file")
    parser.add_argument("--names", default="", help="comma-separated; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--workdir", type=arguments.new_folder, help="default: in RUN/evals")
    parser.add_argument("--processes", type=int, default=1, help="how many at the same time")
    arguments.add_trust(parser)
    args = parser.parse(argv)
    if not Path(args.checkpoint).expanduser().exists():
        parser.error(f"--checkpoint={args.checkpoint} does not exist: name a run or a checkpoint.")
    for name in ("seeds", "processes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)} must be at least 1.")
    return args


def default_names() -> list[str]:
    """Returns the evaluations of the package that have no images of their own, longest last."""
    shared = [
        name
        for name in kinds.names("evaluation")
        if not hasattr(kinds.load("evaluation", name), "Data")
    ]
    return [*(name for name in shared if name not in _LAST), *_LAST]


def runs_of(args: argparse.Namespace, names: Sequence[str], folder: Path) -> dict[Key, Run]:
    """Returns the runs of the evaluations by name and seed.

    The first run draws the neighbours and the map, since the others would draw the same.

    Raises:
      ValueError: an evaluation does not exist, or an override is not for one of them.
    """
    refuse_seed(args.overrides)
    for name in names:
        kinds.load("evaluation", name, key="--names")
    flags = _flags(names, args.overrides)
    drawn = next(iter([name for name in names if name == "knn"] or names))
    found: dict[Key, Run] = {}
    for name in names:
        seeded = getattr(kinds.load("evaluation", name), "SEEDED", True)
        for seed in range(args.seeds if seeded else 1):
            own = [f"--config.checkpoint={args.checkpoint}", f"--config.seed={seed}"]
            own += [] if (name, seed) == (drawn, 0) else ["--config.pictures=False"]
            home = folder / kinds.stem(name) / f"seed-{seed}"
            words = files.merged([*own, *flags[name]])
            trusts = args.trust_checkpoint_code
            found[kinds.stem(name), seed] = Run(f"{_CONFIG}:{name}", home, tuple(words), trusts)
    return found


def _flags(names: Sequence[str], overrides: Sequence[str]) -> dict[str, list[str]]:
    """Returns {evaluation: its overrides}."""
    own = {kinds.stem(name) for name in names}
    others = {kinds.stem(name) for name in kinds.names("evaluation")} - own
    found: dict[str, list[str]] = {name: [] for name in names}
    for key, text in files.split_overrides(overrides)[0]:
        part = key.partition(".")[0]
        if part in others:
            raise ValueError(f"--config.{key} is of an evaluation that does not run: take it out.")
        if key in ("checkpoint", "job"):
            raise ValueError(f"--config.{key} is given by --checkpoint and --names: take it out.")
        for name in names:
            if part not in own or part == kinds.stem(name):
                found[name].append(files.override(key, text))
    return found


def _folder(checkpoint: str, overrides: Sequence[str]) -> Path:
    """Returns the folder of the report: that of an evaluation with these overrides."""
    config = config_lib.load(f"{_CONFIG}:knn", [f"--config.checkpoint={checkpoint}"])
    return default_folder.default_folder(
        "evaluate", config, dict(files.split_overrides(overrides)[0])
    )


def collect(runs: Mapping[Key, Run], done: set[Key]) -> dict[str, Any]:
    """Reads the results of the finished runs.

    Returns:
      {"evaluations": {name: {"folder": of its first run, "seeds": N, "metrics": {number: {"mean",
      "std", "values"}}}}, "data": what they evaluated on, "not_measured": {name: reason}, "failed":
      the names among these that ended without a sentence}. The standard deviation divides by N - 1;
      it is 0 for one seed.
    """
    results = {key: json.loads((runs[key].workdir / "results.json").read_text()) for key in done}
    document: dict[str, Any] = {"data": None, "evaluations": {}, "not_measured": {}, "failed": []}
    for name in dict.fromkeys(name for name, _ in runs):
        seeds = [seed for other, seed in runs if other == name and (name, seed) in done]
        if not seeds:
            said = reason(runs[name, 0].workdir / "log.txt")
            document["not_measured"][name] = said or "it failed without a word"
            document["failed"] += [] if said else [name]
            continue
        of_each = [metrics.flat(results[name, seed]["metrics"]) for seed in seeds]
        document["data"] = document["data"] or results[name, seeds[0]].get("data")
        document["evaluations"][name] = {
            "folder": str(runs[name, seeds[0]].workdir),
            "seeds": len(seeds),
            "metrics": {number: _summary(number, of_each) for number in of_each[0]},
        }
    return document


def _summary(number: str, of_each: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = [found[number] for found in of_each if found.get(number) is not None]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)) if values else None, "std": spread, "values": values}


if __name__ == "__main__":
    main()
