"""The command lines of the tools: flags, overrides of configs, and a sentence for each mistake."""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from iecl_jax import console
from iecl_jax.config import files, own_files, paths
from iecl_jax.run import default_folder


class Parser(argparse.ArgumentParser):
    """An argparse parser that also takes `--config.KEY=VALUE`, in any place, with or without `--`.

    Args:
      text: the description; the docstring of the tool.
      overrides: False for a tool that does not train or build what a config describes.
      evaluations: True for a tool that also takes `--evaluation.KEY=VALUE`.
    """

    def __init__(self, text: str | None, *, overrides: bool = True, evaluations: bool = False):
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        super().__init__(
            prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec else None,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            epilog="--config.KEY=VALUE changes a setting of every config." if overrides else None,
        )
        self._takes_overrides, self._takes_evaluations = overrides, evaluations

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Returns the flags, and in `overrides` the list of all overrides; ends at a mistake.

        What comes after `--` also goes to `overrides`. `evaluations` has the overrides
        `--config.KEY=VALUE` that are given as `--evaluation.KEY=VALUE`. If these are the arguments
        of the process, the console is started.
        """
        words = list(sys.argv[1:] if arguments is None else arguments)
        if words == sys.argv[1:]:
            console.start()
        of_evaluations: list[tuple[str, str | None]] = []
        try:
            files.refuse_contradictions(words)
            if self._takes_evaluations:
                files.refuse_contradictions(words, "evaluation")
                of_evaluations, words = files.split_overrides(words, "evaluation")
        except ValueError as error:
            self.error(str(error))
        after = words[words.index("--") + 1 :] if "--" in words else []
        words = words[: words.index("--")] if "--" in words else words
        given, words = files.split_overrides(words)
        overrides = [files.override(key, text) for key, text in given]
        if overrides and not self._takes_overrides:
            self.error(f"{overrides[0]}: this command has no config to change.")
        args, unknown = self.parse_known_args(words)
        if unknown:
            self.error(self._unknown(unknown[0]))
        args.overrides = [*overrides, *after]
        if self._takes_evaluations:
            args.evaluations = [files.override(key, text) for key, text in of_evaluations]
        return args

    def _unknown(self, word: str) -> str:
        name = word.partition("=")[0]
        near = difflib.get_close_matches(name, self._option_string_actions)
        hint = f"did you mean {' or '.join(near)}?" if near else "see --help."
        return f"{word} is no flag of this command: {hint}"

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2 and one sentence."""
        self.exit(2, f"error: {message.rstrip('.?')}{'?' if message.endswith('?') else '.'}\n")


def folder(text: str) -> Path:
    """Returns a path of this machine, `~` expanded; the `type` of a flag."""
    try:
        return paths.local("this", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def new_folder(text: str) -> Path:
    """Does what `folder` does, and refuses one that is not there and cannot be made."""
    found = folder(text)
    try:
        paths.refuse_unmakeable("this", found)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found


def new_file(text: str) -> Path:
    """Returns the path of a file to write, and refuses one whose folder cannot be made."""
    return new_folder(str(folder(text).parent)) / folder(text).name


def picture(workdir: Path, figure: str, changed: Mapping[str, Any]) -> Path:
    """Returns where a figure of a run lies unless --out says otherwise: RUN/figures/NAME.png.

    NAME has the flags, by name, that make it another picture than the command draws without them,
    so that neither takes the other's place.
    """
    return workdir / "figures" / f"{default_folder.name(figure, changed)}.png"


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the flag without which no code that a checkpoint names is run."""
    parser.add_argument(
        own_files.TRUST_FLAG,
        action="store_true",
        help="run the Python files that the config of a checkpoint names; they can do anything",
    )
