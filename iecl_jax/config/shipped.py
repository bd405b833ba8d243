"""Finds a config file on disk, or else among those that come with the package."""

import difflib
from pathlib import Path

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
    meant = alike(str(path))
    hint = (
        f"did you mean {' or '.join(map(repr, meant))}?"
        if meant
        else "name one such as configs/quickstart.py."
    )
    raise ValueError(f"there is no config file {str(path)!r}: {hint}")


def alike(text: str) -> list[str]:
    """Returns the configs that a text may mean, such as "quickstart" or "resnet18:cifar10"."""
    name, colon, variant = text.partition(":")
    if Path(name).is_file():
        return [text]
    stems = [each.stem for each in sorted(_PACKAGE.glob("configs/[a-z]*.py"))]
    near = difflib.get_close_matches(Path(name).stem, stems)
    return [f"configs/{stem}.py{colon}{variant}" for stem in near]
