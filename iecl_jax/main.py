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
from iecl_jax import console
from iecl_jax.config import files, idle, own_files, paths
from iecl_jax.run import distributed, flag_parsing, lock, names, preemption, runtime, workdir

# This command logs at INFO, where JAX would report, for example, every backend it did not find.
std_logging.getLogger("jax").setLevel(std_logging.WARNING)

HELP = """usage: python -m iecl_jax.main --config=FILE[:VARIANT] [--config.KEY=VALUE ...] [FLAGS]

Trains what a config describes, or evaluates a checkpoint. The same command resumes a training.

  --config=configs/quickstart.py         trains on digits, in minutes on a CPU
  --config=configs/resnet18.py:cifar10   the paper's training; ends in `,smoke` for a few steps
  --config=configs/knn.py --config.checkpoint=RUN
                                         evaluates the newest checkpoint of the folder RUN
  iecl encode PHOTOS --checkpoint=RUN --out=features.npz
                                         encodes images; `python -m iecl_jax.tools` lists all tools
  --config.KEY=VALUE                     changes a setting; --print_config lists all of them
  --dry_run                              says what the run needs and how long it takes; starts
                                         nothing"""

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run. The default is runs/NAME, where NAME has the config and what the command "
    "changed; an evaluation's is RUN/evals/NAME, in the run of its checkpoint.",
)
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Continue in a workdir that was started with another config."
)
_TRUST = flags.DEFINE_bool(
    "trust_checkpoint_code",
    False,
    "Run the Python files that the config of a checkpoint names. They can do anything on this "
    "machine.",
)
_PRINT_CONFIG = flags.DEFINE_bool(
    "print_config", False, "Print every setting with its value and meaning, and do nothing else."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Compile everything, time a few steps, print what the run needs and when it would end, and "
    "start nothing. What does not fit into memory or on the disk is an error.",
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
      changed: {dotted name: value} of the keys to which the overrides gave another value.
    """

    flag: str
    config: ml_collections.ConfigDict
    changed: dict[str, Any]


def workdir_of(command: Command) -> str:
    """Returns --workdir, or the folder that a command without it has.

    Raises:
      ValueError: it is no path, or a changed run is to go on and the command does not say which.
    """
    if _WORKDIR.value:
        folder = paths.local("--workdir", _WORKDIR.value)
    elif _ALLOW_CHANGE.value and command.changed:
        raise ValueError("--allow_config_change needs --workdir=RUN, the run that goes on.")
    else:
        from iecl_jax.run.default_folder import default_folder  # takes seconds to import

        folder = default_folder(*command)
    return str(folder)


def main(command: Command) -> None:
    """Starts JAX and runs the job that the config names."""
    with console.waiting("Starting JAX"):
        # A process that imports this file may have changed what the network does.
        runtime.configure(keep_programs=__name__ == "__main__")
        distributed.start(
            cluster=_CLUSTER.value,
            coordinator_address=_COORDINATOR.value,
            num_processes=_NUM_PROCESSES.value,
            process_id=_PROCESS_ID.value,
        )
        # Imported late, since it takes seconds: most mistakes have been reported before.
        from iecl_jax.evals.parts import export, jobs

    run_dir = workdir_of(command)
    allow_change = _ALLOW_CHANGE.value
    flags_given = {"--workdir": os.path.abspath(run_dir), "--allow_config_change": allow_change}
    distributed.check_same("settings", config_lib.leaves(command.config) | flags_given)
    distributed.check_same("versions", workdir.software())
    with distributed.together():
        if jax.process_index() == 0:
            paths.refuse_unmakeable("--workdir", Path(run_dir))
            for sentence in idle.sentences(command.config, command.changed):
                logging.warning("%s", sentence)
    if _DRY_RUN.value:
        from iecl_jax.tools import dry_run

        dry_run.run(command.config, run_dir)
        return
    with lock.held(run_dir):
        if command.config.job == "pretrain":
            pretrain(command.config, run_dir, allow_config_change=allow_change)
        elif command.config.job == "export":
            export.run(command.config, run_dir)
            return
        else:
            jobs.run(command.config, run_dir, allow_config_change=allow_change)
            write_report(run_dir)
    console.show(f"Results: {run_dir}/results.json")


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
    from iecl_jax.evals.parts.encoder import SplitEncoder
    from iecl_jax.evals.pictures.run_gallery import RunGallery
    from iecl_jax.train import pretraining

    task = pretraining.prepare(config)
    method, views = task.experiment.method, task.experiment.views
    evaluations = scheduled(config, method, task.split, run_dir)
    encoder = SplitEncoder(config, method, pretrain=task.split)
    results = pretraining.pretrain(
        task,
        run_dir,
        evaluations=evaluations,
        diagnostics=Diagnostics(config, task.split) if config.diagnostics.every_steps else None,
        draw=RunGallery(config, method, task.split, views),
        encode=encoder.features_of_pretrain,
        allow_config_change=allow_config_change,
    )
    write_report(run_dir)
    _conclude(config, run_dir, results)
    return results


def write_report(run_dir: str) -> None:
    """Writes report.html, on process 0. What fails is a warning, since the work is done."""
    from iecl_jax.tools.figures import report

    if jax.process_index() == 0:
        try:
            with console.waiting("Writing the report"):
                report.write(run_dir)
        except Exception as error:
            logging.warning("No report: %s", error)


def _conclude(config: ml_collections.ConfigDict, run_dir: str, results: dict[str, Any]) -> None:
    """Prints the results in words, and where everything is."""
    from iecl_jax.evals.parts import results as evaluation_results

    words = evaluation_results.words(config.eval.names)
    told = evaluation_results.told(words, results.get("metrics", {}))
    steps, seconds = results.get("steps", 0), results.get("seconds", 0.0)
    console.show(
        f"\n{config_lib.trained(config)} on {config.data.name}, {steps:,} steps, "
        f"{console.duration(seconds)}"
    )
    for line in told:
        console.show(f"  {line}")
    curves = (
        f", or tensorboard --logdir={run_dir}" if any(Path(run_dir).glob(names.EVENT_FILES)) else ""
    )
    console.show(
        f"Pictures and curves: {run_dir}/report.html{curves}\n"
        f"Numbers of every step: {run_dir}/metrics.jsonl; weights: {run_dir}/checkpoints"
    )


def parse(argv: list[str]) -> Command:
    """Parses all flags. A mistake ends the process with a sentence, before JAX starts."""
    if {"--help", "-help", "-h", "--helpfull", "--helpshort"} & set(argv):
        print(flag_parsing.help_text(HELP, __name__))
        sys.exit()
    try:
        flag, arguments = flag_parsing.take("config", argv[1:])
        if flag is None:
            raise flag_parsing.without_config(arguments)
        files.refuse_contradictions(arguments)
        loaded = config_lib.parse(flag, arguments)
        flag_parsing.parse_flags(loaded.rest, config_lib.leaves(loaded.config))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {own_files.sentence(error)}")
    own_files.trust_checkpoints(_TRUST.value)
    return Command(flag, loaded.config, loaded.changed)


def run(command: Command) -> None:
    """Calls `main`; a mistake of the user ends the process with one sentence and exit code 1."""
    console.start()
    with distributed.ending_the_others():
        try:
            with own_files.sentences():
                if _PRINT_CONFIG.value:
                    print(config_lib.show(command.config, command.changed))
                if command.config.job == "pretrain" or not _PRINT_CONFIG.value:
                    # Before the seconds that JAX takes; the number of devices is checked later.
                    config_lib.check(command.config, num_devices=1)
                if not _PRINT_CONFIG.value:
                    main(command)
        except KeyboardInterrupt:  # outside of the loop, where there is nothing to save
            sys.exit("error: stopped by Ctrl-C; the same command goes on from the last checkpoint.")


if __name__ == "__main__":
    with preemption.ending_with_its_code():
        app.run(run, flags_parser=parse)
