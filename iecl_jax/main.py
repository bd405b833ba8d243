"""python -m iecl_jax.main --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.KEY=X]"""

import logging as std_logging
import os
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from iecl_jax.run import distributed, runtime

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow greets with a page of text
std_logging.getLogger("jax").setLevel(std_logging.WARNING)

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file; KEY=VALUE override it.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/NAME-OF-CONFIG.")
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on in a workdir that was begun with another config."
)
_CLUSTER = flags.DEFINE_enum(
    "cluster",
    "auto",
    distributed.CLUSTERS,
    "What started several processes of this run; auto sees SLURM and Open MPI, none is alone.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for processes started in another way."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def default_workdir(config_flag: str) -> str:
    """`configs/resnet18.py:cifar10,smoke` -> `runs/resnet18-cifar10-smoke`."""
    path, _, variant = config_flag.partition(":")
    return "-".join(["runs/" + Path(path).stem, *filter(None, variant.split(","))])


def main(argv: list[str]) -> None:
    """Runs the job of the config that the flags name."""
    if len(argv) > 1:
        raise ValueError(f"argument {argv[1]!r} is not a flag: flags look like --config=FILE.")
    runtime.configure()
    distributed.start(
        cluster=_CLUSTER.value,
        coordinator_address=_COORDINATOR.value,
        num_processes=_NUM_PROCESSES.value,
        process_id=_PROCESS_ID.value,
    )
    # Imported after the flags were parsed, so that a mistake there is told at once.
    from iecl_jax.evals import jobs
    from iecl_jax.train import loop as train

    config = _CONFIG.value
    run_dir = _WORKDIR.value or default_workdir(
        config_flags.get_config_filename(flags.FLAGS["config"])
    )
    job = train.pretrain if config.job == "pretrain" else jobs.run
    job(config, run_dir, allow_config_change=_ALLOW_CHANGE.value)
    print(f"Results: {run_dir}/results.json", flush=True)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; a wrong variant or an override that the config lacks becomes one sentence."""
    from iecl_jax.config import load as config_lib

    joined = [
        f"{a}={b}" if a in ("-config", "--config") else a for a, b in zip(argv, [*argv[1:], ""])
    ]
    for argument in joined[1:]:
        if argument.lstrip("-").startswith("config="):
            try:
                config = config_lib.load(argument.partition("=")[2])
            except ValueError as error:
                sys.exit(f"error: {error}")
            sentence = config_lib.unknown_override(config, argv[1:])
            if sentence:
                sys.exit(f"error: {sentence}")
    remaining = app.parse_flags_with_usage(argv)
    if _CONFIG.value is None:
        sys.exit("error: name a config, for example --config=configs/quickstart.py.")
    return remaining


def run(argv: list[str]) -> None:
    """`main`, with a user's mistake told in one sentence and exit code 1."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.INFO)
    with distributed.ending_the_others():
        try:
            main(argv)
        except (ValueError, FloatingPointError) as error:
            logging.debug("traceback", exc_info=True)
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(run, flags_parser=_parse)
