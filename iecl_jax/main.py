"""python -m iecl_jax.main --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file; KEY=VALUE override it.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; default runs/NAME-OF-CONFIG.")
_ALLOW_CHANGE = flags.DEFINE_bool(
    "allow_config_change", False, "Go on in a workdir that was begun with another config."
)


def default_workdir(config_flag: str) -> str:
    """`configs/resnet18.py:cifar10,smoke` -> `runs/resnet18-cifar10-smoke`."""
    path, _, variant = config_flag.partition(":")
    return "-".join(["runs/" + Path(path).stem, *filter(None, variant.split(","))])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"argument {argv[1]!r} is not a flag: flags look like --config=FILE.")
    from iecl_jax import evaluate, train  # after the flags: a mistake there is told at once

    config = _CONFIG.value
    jobs = {
        "pretrain": train.pretrain,
        "linear_probe": evaluate.run_linear_probe,
        "knn": evaluate.run_knn,
    }
    if config.job not in jobs:
        raise ValueError(f"job={config.job!r} is unknown: use one of {', '.join(jobs)}.")
    run_dir = _WORKDIR.value or default_workdir(
        config_flags.get_config_filename(flags.FLAGS["config"])
    )
    jobs[config.job](config, run_dir, allow_config_change=_ALLOW_CHANGE.value)
    print(f"Results: {run_dir}/results.json", flush=True)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; an override of a key that the config lacks becomes one sentence."""
    try:
        remaining = app.parse_flags_with_usage(argv)
    except (KeyError, AttributeError):
        from iecl_jax import config as config_lib

        flags.FLAGS.unparse_flags()
        flags.FLAGS([argv[0], *(a for a in argv if not a.lstrip("-").startswith("config."))])
        sentence = config_lib.unknown_override(_CONFIG.value, argv[1:])
        sys.exit(f"error: {sentence}")
    if _CONFIG.value is None:
        sys.exit("error: name a config, for example --config=configs/quickstart.py.")
    return remaining


def run(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    try:
        main(argv)
    except (ValueError, FloatingPointError) as error:
        logging.debug("traceback", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(run, flags_parser=_parse)
