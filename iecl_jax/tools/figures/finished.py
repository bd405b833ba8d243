"""What the commands share that draw a finished run: their flags, and the run's network."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from iecl_jax import config as config_lib
from iecl_jax.config import own_files
from iecl_jax.evals.parts import jobs, overview
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.tools import arguments

_OF_IMAGES = ("data.", "best=", "seed=")  # the settings that a picture depends on
_SAME_PICTURE = ("workdir", "out", "data_dir", own_files.TRUST_FLAG.lstrip("-"), "overrides")


def parser(text: str | None, figure: str) -> arguments.Parser:
    """Returns a parser with the shared flags; `figure` is the name of the file, without `.png`.

    It also takes the settings `--config.data.KEY` of an evaluation, for images of one's own.
    """
    made = arguments.Parser(text)
    made.add_argument("--workdir", required=True, type=arguments.folder)
    made.add_argument("--data_dir", default="", help="default: data.dir of the run's config")
    made.add_argument(
        "--images",
        type=count,
        default=10 * overview.MOST_ENCODED,
        help="how many test and training images are encoded at most",
    )
    made.add_argument(
        "--out",
        type=arguments.new_file,
        help=f"default: WORKDIR/figures/{figure}.png, with the flags that change the picture",
    )
    made.set_defaults(figure=figure)
    arguments.add_trust(made)
    return made


def count(text: str) -> int:
    """Returns the number, at least 1, that a flag gives."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} must be a number of at least 1")
    return int(text)


def draw(
    made: arguments.Parser,
    words: Sequence[str] | None,
    suffixes: Sequence[str],
    write: Callable[[Subject, Path, argparse.Namespace], None],
) -> None:
    """Parses the flags, calls `write` with the network of the run, and prints the picture's path.

    A mistake ends the process with a sentence.
    """
    args = made.parse(words)
    for word in args.overrides:
        if not word.removeprefix("--config.").startswith(_OF_IMAGES):
            made.error(f"{word}: of a config, this command takes data.KEY, best and seed")
    try:
        loaded = config_lib.parse("configs/knn.py", args.overrides)
    except ValueError as error:
        made.error(str(error))
    config = loaded.config
    config.checkpoint = str(args.workdir)
    if args.data_dir:
        config.data.dir = args.data_dir
    changed = loaded.changed | {
        name: value
        for name, value in vars(args).items()
        if name not in _SAME_PICTURE and value != made.get_default(name)
    }
    path = args.out or arguments.picture(args.workdir, args.figure, changed)
    if path.suffix not in suffixes:
        made.error(f"--out={path} must end in {' or '.join(suffixes)}")
    own_files.trust_checkpoints(args.trust_checkpoint_code)
    with own_files.sentences():
        write(jobs.load(config, str(args.workdir)), path, args)
    print(path)
