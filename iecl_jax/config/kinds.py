"""Finds the methods, encoders, data sources, operators and evaluations that a config names.

Each is one Python file. It lies in the package's folder for its kind, or anywhere, and the config
names it by its path. A config that names a file has the settings that the file declares in its
class `Settings`. So a new file is all that a new method (or encoder, ...) takes: there is no list
to enter it in.
"""

import functools
import importlib
import pkgutil
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax.config import own_files, rules
from iecl_jax.config.section import Section


class Kind(NamedTuple):
    """Where the files of one kind lie, and what each must define.

    Attributes:
      package: the package whose modules are the files.
      parts: the names that every file must define.
      example: the path of a file to look at, for error messages.
      fallback: the module that opens every other name, or "" if there is none.
      families: True if a file of the package offers the several names of its NAMES, False if it
        offers its own file name.
    """

    package: str
    parts: tuple[str, ...]
    example: str
    fallback: str = ""
    families: bool = False


KINDS = {
    "encoder": Kind(
        "iecl_jax.models.encoders",
        ("Settings", "make"),
        "iecl_jax/models/encoders/resnet.py",
        families=True,
    ),
    "method": Kind("iecl_jax.methods", ("Settings", "make"), "iecl_jax/methods/byol.py"),
    "evaluation": Kind(
        "iecl_jax.evals", ("Settings", "RESULTS", "measure"), "iecl_jax/evals/knn.py"
    ),
    "operator": Kind(
        "iecl_jax.data.augment.operators",
        ("Settings", "apply"),
        "iecl_jax/data/augment/operators/flip.py",
    ),
    "data": Kind(
        "iecl_jax.data.sources",
        ("Settings", "MEAN", "STD", "open_split"),
        "iecl_jax/data/sources/generated.py",
        fallback="iecl_jax.data.sources.tfds",
    ),
}


def load(kind: str, name: str, *, key: str | None = None) -> types.ModuleType:
    """Imports the file that a config names and returns its module.

    Args:
      kind: a key of KINDS.
      name: one of `names(kind)`, the path of a Python file, or any name if the kind has a fallback.
      key: the setting that holds the name, for error messages; KIND.name by default.

    Raises:
      ValueError: there is no such name or file, or the file fails or lacks one of the kind's parts.
    """
    key = f"{kind}.name" if key is None else key
    rules.check_value(key, name, "", None)
    known = files(kind)
    if not name.endswith(".py"):
        module = known.get(name, KINDS[kind].fallback)
        if not module:
            rules.one_of(key, name, known)
        found = importlib.import_module(module)
    else:
        if not _is_file(name):
            raise ValueError(f"{key}={rules.shown(name)} is no Python file: name one that exists.")
        found = own_files.import_file(Path(name).expanduser())
    for part in KINDS[kind].parts:
        if not hasattr(found, part):
            raise ValueError(f"{key}={name!r} has no {part}: see {KINDS[kind].example}.")
    return found


def _is_file(name: str) -> bool:
    try:
        return Path(name).expanduser().is_file()
    except (OSError, RuntimeError):  # A name that is too long, or ~ of a user who does not exist.
        return False


def settings(kind: str, name: str, *, key: str | None = None) -> type[Section]:
    """Returns the class `Settings` of the file that a config names; see `load` for the arguments.

    Raises:
      ValueError: `load` raises it, or `Settings` is not a Section.
    """
    found = load(kind, name, key=key).Settings
    if not (isinstance(found, type) and issubclass(found, Section)):
        raise ValueError(f"Settings of the {kind} {name!r} must be a class X(Section).")
    return found


def check(kind: str, name: str, *settings: Any) -> None:
    """Calls the file's `check(*settings)`, if it has one; that raises ValueError on a misfit."""
    found = load(kind, name)
    if hasattr(found, "check"):
        found.check(*settings)


def names(kind: str) -> tuple[str, ...]:
    """Returns the names of a kind that the package itself offers, sorted."""
    return tuple(files(kind))


@functools.cache
def files(kind: str) -> dict[str, str]:
    """Returns {name: module} for the names of a kind that the package itself offers, sorted."""
    package = importlib.import_module(KINDS[kind].package)
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = f"{package.__name__}.{info.name}"
        if info.ispkg or info.name.startswith("_") or module == KINDS[kind].fallback:
            continue
        offered: Sequence[str] = (info.name,)
        if KINDS[kind].families:
            offered = getattr(importlib.import_module(module), "NAMES", offered)
        found |= dict.fromkeys(offered, module)
    return dict(sorted(found.items()))


def stem(name: str) -> str:
    """Returns the name of the config section of a file's settings: its file name without `.py`."""
    return Path(name).stem
