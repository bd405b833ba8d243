"""The command that runs a config: pretraining, or an evaluation of a checkpoint.

    python -m iecl_jax.main --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.KEY=X]

`run` handles mistakes and printing, `main` starts JAX, `pretrain` builds and trains.
"""

import logging as std_logging
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from absl import app, flags, logging

from iecl_jax import config as config_lib
from iecl_jax.run import distributed, lock, runtime, workdir

# TensorFlow, which clu uses to write event files, otherwise logs a page about oneDNN when imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# This command logs at INFO, where JAX would report, for example, every backend it did not find.
std_logging.getLogger("jax").setLevel(std_logging.WARNING)

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. The default is runs/NAME-OF-CONFIG."
)
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Continue in a workdir that was started with another config."
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Print every setting with its value and meaning, and do nothing else."
)
_CLUSTER = flags.DEFINE_enum(
    "cluster",
    "auto",
    distributed.CLUSTERS,
    "What started the processes of this run. auto detects SLURM and Open MPI; none means that this "
    "process runs alone.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, where no cluster sets it."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")


class Command(NamedTuple):
    """The config that the command line asks for.

    Attributes:
      flag: the value of --config, FILE[:VARIANT].
      config: the config with all overrides applied.
      changed: the dotted keys that the overrides set.
    """

    flag: str
    config: ml_collections.ConfigDict
    changed: tuple[str, ...]


def default_workdir(config_flag: str) -> str:
    """Returns `runs/resnet18-cifar10-smoke` for `configs/resnet18.py:cifar10,smoke`."""
    path, _, variant = config_flag.partition(":")
    words = [Path(word).stem for word in variant.split(",") if word]  # A word may be a path.
    return "-".join(["runs/" + Path(path).stem, *words])


def main(command: Command) -> None:
    """Starts JAX and runs the job that the config names."""
    runtime.configure()
    distributed.start(
        cluster=_CLUSTER.value,
        coordinator_address=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )
    # Imported late, since it takes seconds: mistakes in the flags have been reported before.
    from iecl_jax.evals.parts import jobs

    run_dir = _WORKDIR.value or default_workdir(command.flag)
    allow_change = _ALLOW_CHANGE.value
    flags_given = {"--workdir": os.path.abspath(run_dir), "--allow_config_change": allow_change}
    distributed.check_same("settings", config_lib.leaves(command.config) | flags_given)
    distributed.check_same("versions", workdir.software())
    with lock.held(run_dir):
        if command.config.job == "pretrain":
            pretrain(command.config, run_dir, allow_config_change=allow_change)
        else:
            jobs.run(command.config, run_dir, allow_config_change=allow_change)
            write_report(run_dir)
    print(f"Results: {run_dir}/results.json", flush=True)


def pretrain(
    config: ml_collections.ConfigDict, run_dir: str, *, allow_config_change: bool = False
) -> dict[str, Any]:
    """Runs the job `pretrain`: trains, evaluates, draws the gallery and writes the report.

    `run_dir` gets the files of `pretraining.pretrain`, gallery/STEP.png and report.html.

    Returns:
      The content of results.json.

    Raises:
      ValueError, FloatingPointError, CollapseError, SystemExit: see `pretraining.pretrain`.
    """
    from iecl_jax.evals import scheduled
    from iecl_jax.evals.parts.diagnostics import Diagnostics
    from iecl_jax.evals.pictures.run_gallery import RunGallery
    from iecl_jax.train import pretraining

    task = pretraining.prepare(config)
    method, views = task.experiment.method, task.experiment.views
    evaluations = scheduled(config, method, task.split, run_dir)
    results = pretraining.pretrain(
        task,
        run_dir,
        evaluations=evaluations,
        diagnostics=Diagnostics(config, task.split) if config.diagnostics.every_steps else None,
        draw=RunGallery(config, method, task.split, run_dir, views),
        allow_config_change=allow_config_change,
    )
    write_report(run_dir)
    return results


def write_report(run_dir: str) -> None:
    """Writes report.html, on process 0. What fails is a warning, since the work is done."""
    from iecl_jax.tools.figures import report

    if jax.process_index() == 0:
        try:
            logging.info("Report: %s", report.write(run_dir))
        except Exception as error:
            logging.warning("No report: %s", error)


def parse(argv: list[str]) -> Command:
    """Parses all flags. A mistake ends the process with a sentence, before JAX starts."""
    try:
        flag, arguments = _config_flag(argv[1:])
        loaded = config_lib.parse(flag, arguments)
        rest = app.parse_flags_with_usage([argv[0], *loaded.rest])[1:]
        if rest:
            raise ValueError(f"argument {rest[0]!r} is not a flag: flags look like --config=FILE.")
    except ValueError as error:
        sys.exit(f"error: {error}")
    return Command(flag, loaded.config, loaded.changed)


def _config_flag(arguments: list[str]) -> tuple[str, list[str]]:
    """Returns (the value of --config, the other arguments).

    absl cannot parse the flag: which `--config.KEY` flags exist depends on the config it names.

    Raises:
      ValueError: --config is missing.
    """
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config") and (equals or i + 1 < len(arguments)):
            following = i + 1 if equals else i + 2
            return value or arguments[i + 1], [*arguments[:i], *arguments[following:]]
    if {"--help", "-help", "--helpfull"} & set(arguments):
        app.parse_flags_with_usage(
            ["iecl_jax.main", "--help"]
        )  # Prints the help and ends the process.
    raise ValueError("name a config, for example --config=configs/quickstart.py.")


def run(command: Command) -> None:
    """Calls `main`; a mistake of the user ends the process with one sentence and exit code 1."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    if _PRINT_CONFIG.value:
        print(config_lib.show(command.config, command.changed))
        if command.config.job == "pretrain":
            try:
                config_lib.check(command.config, num_devices=1)
            except ValueError as error:
                sys.exit(f"error: {error}")
        return
    with distributed.ending_the_others():
        try:
            main(command)
        except (ValueError, FloatingPointError) as error:
            logging.debug("traceback", exc_info=True)
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:  # outside of the loop, where there is nothing to save
            sys.exit("error: stopped by Ctrl-C; the same command goes on from the last checkpoint.")


if __name__ == "__main__":
    app.run(run, flags_parser=parse)
