"""What `python -m PACKAGE` prints where the package itself is no command: the commands that are."""

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from iecl_jax.config import kinds

_PACKAGE = Path(__file__).parent.parent


def leave(package: str, commands: Mapping[str, str]) -> NoReturn:
    """Prints {command: what it does} and ends the process, with exit code 2 unless help was asked.

    Args:
      package: the package that was called.
      commands: the commands to call instead.
    """
    asked = {"--help", "-h"} & set(sys.argv[1:])
    lines = [f"{package} is no command of its own. Call" if not asked else f"{package}: call", ""]
    lines += [f"  {command}\n      {sentence}" for command, sentence in commands.items()]
    print("\n".join([*lines, "", "Each has --help."]), file=sys.stdout if asked else sys.stderr)
    sys.exit(0 if asked else 2)


def tools(package: str) -> dict[str, str]:
    """Returns the commands among the modules of a package. None is imported."""
    folder = _PACKAGE.parent.joinpath(*package.split("."))
    found = {}
    for path in sorted(folder.glob("[a-z]*")):
        own = path / "__main__.py" if path.is_dir() else path
        text = own.read_text() if own.suffix == ".py" and own.is_file() else ""
        if 'if __name__ == "__main__"' in text and "listing.leave" not in text:
            about = path / "__init__.py" if path.is_dir() else path
            found[f"python -m {package}.{path.stem}"] = _sentence(about)
    return found


def configs() -> dict[str, str]:
    """Returns the commands that train or evaluate by a config of the package."""
    return {
        f"python -m iecl_jax.main --config=configs/{path.name}": _sentence(path)
        for path in sorted(_PACKAGE.glob("configs/[a-z]*.py"))
        if "def get_config" in path.read_text()
    }


def evaluations() -> dict[str, str]:
    """Returns the commands that evaluate a run, one for each evaluation of the package."""
    call = "python -m iecl_jax.main --config=configs/evaluate.py:{} --config.checkpoint=RUN"
    found = {}
    for name, module in kinds.files("evaluation").items():
        path = _PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
        found[call.format(name)] = _sentence(path)
    return found


def _sentence(path: Path) -> str:
    """Returns the first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
