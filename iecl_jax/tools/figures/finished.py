"""What the commands share that draw a finished run: their flags, and the run's network."""

import argparse
import pathlib
from collections.abc import Callable, Sequence

from iecl_jax import config as config_lib
from iecl_jax.evals.parts import jobs, overview
from iecl_jax.evals.parts.subject import Subject


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    """Returns a parser with --workdir, --data_dir, --images and --out, WORKDIR/`out` by default."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--workdir", required=True, type=pathlib.Path, help="a run, or a checkpoint")
    made.add_argument("--data_dir", default="", help="default: data.dir of the run's config")
    made.add_argument(
        "--images",
        type=count,
        default=10 * overview.MOST_ENCODED,
        help="how many test and training images are encoded at most",
    )
    made.add_argument("--out", default="", help=f"default: WORKDIR/{out}")
    made.set_defaults(default_out=out)
    return made


def count(text: str) -> int:
    """Returns the number, at least 1, that a flag gives; argparse reports anything else."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def draw(
    made: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    suffixes: Sequence[str],
    write: Callable[[Subject, pathlib.Path, argparse.Namespace], None],
) -> None:
    """Parses the flags, calls `write` with the network of the run, and prints the picture's path.

    A mistake ends the process with a sentence.
    """
    args = made.parse_args(arguments)
    path = pathlib.Path(args.out or args.workdir / args.default_out)
    try:
        if path.suffix not in suffixes:
            raise ValueError(f"--out={path} must end in {' or '.join(suffixes)}.")
        config = config_lib.new("knn")
        config.update({"checkpoint": str(args.workdir), "data": {"dir": args.data_dir}})
        write(jobs.load(config, str(args.workdir)), path, args)
    except (ValueError, OSError) as error:
        made.error(str(error))
    print(path)
