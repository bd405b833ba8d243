"""Finds a config file on disk, or else among those that come with the package."""

from pathlib import Path

from iecl_jax.config import rules

_PACKAGE = Path(__file__).parent.parent


def find(path: str | Path) -> Path:
    """Returns the file of this path, or else the package's file of that name.

    So `configs/quickstart.py` is found from any folder, and a file of one's own goes first.

    Raises:
      ValueError: there is neither.
    """
    own, shipped = Path(path).expanduser(), _PACKAGE / path
    if own.is_file():
        return own
    if Path(path).parts[:1] == ("configs",) and shipped.is_file():
        return shipped
    names = [f"configs/{each.name}" for each in sorted(_PACKAGE.glob("configs/[a-z]*.py"))]
    hint = rules.near(str(path), names)
    raise ValueError(
        f"there is no config file {str(path)!r}: {hint}name one such as configs/quickstart.py."
    )
