"""Compares the time per step of a training run with that of the step alone.

    python -m iecl_jax.tools.benchmark.loop_overhead --config=configs/quickstart.py

A run of `iecl_jax.main` in a new process and the step in this process take turns; every other round
goes backwards. The step alone gets a batch that is already on the devices. The time of the run is
that of its last logging interval: it includes reading, logging and event files, but no compilation,
evaluation, diagnostics or checkpoints.
"""

import functools
import json
import pathlib
import subprocess
import sys
import tempfile

from iecl_jax import config as config_lib
from iecl_jax.config import files
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import parts, timing

# Turn off what is not measured.
QUIET = (
    "--config.schedule.warmup_epochs=0.0",
    "--config.eval.every_epochs=0",
    "--config.diagnostics.every_steps=0",
    "--config.checkpoint.every_steps=1000000000",
)


def loop_milliseconds(config: str, steps: int, overrides: list[str]) -> float:
    """Returns milliseconds per step in the second of two logging intervals of `steps` steps."""
    with tempfile.TemporaryDirectory() as run_dir:
        lengths = [f"--config.train.log_every_steps={steps}"]
        lengths += [f"--config.train.num_steps={2 * steps}"]
        command = [sys.executable, "-m", "iecl_jax.main", f"--config={config}"]
        command += [f"--workdir={run_dir}", *files.merged([*QUIET, *lengths, *overrides])]
        subprocess.run(command, check=True, capture_output=True)
        results = json.loads(pathlib.Path(run_dir, "results.json").read_text())
        used = json.loads(pathlib.Path(run_dir, "config.json").read_text())
    return 1e3 * used["train"]["batch_size"] / results["images_per_second"]


def main() -> None:
    """Prints both times of each round, and the median and range of their ratio."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", default="configs/quickstart.py", help="FILE[:VARIANT]")
    timing.add_flags(parser, rounds=5, steps=20)
    args = parser.parse()
    step = parts.TimedStep(config_lib.load(args.config, [*QUIET, *args.overrides]))
    loop, bare = timing.alternate(
        [
            functools.partial(loop_milliseconds, args.config, args.steps, args.overrides),
            functools.partial(timing.median, step.durations, args.steps),
        ],
        args.rounds,
    )
    ratios = timing.ratios(loop, bare)
    for times in zip(loop, bare, ratios, strict=True):
        print("loop {:8.2f} ms    bare step {:8.2f} ms    ratio {:.3f}".format(*times))
    print(timing.spread(timing.extent(ratios), "{:.3f}"))


if __name__ == "__main__":
    main()
