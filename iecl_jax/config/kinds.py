"""Kinds of things that enrol by existing: a file in a folder, or the path of any Python file.

Whoever names one in a config gets the settings that the file declares in its `Settings`. So a new
method, encoder, data source, operator or evaluation is one file, and nothing else changes.
"""

import functools
import importlib
import importlib.util
import pkgutil
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax.config import rules
from iecl_jax.config.section import Section


class Kind(NamedTuple):
    """A kind of thing.

    Attributes:
      package: whose modules are its files.
      parts: what every file must have.
      example: a file to look at.
      fallback: the module that takes every other name, or "".
      families: whether a file of the package offers several things, its NAMES, rather than one of
        the file's name.
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
    """The module of a thing: one of `names(kind)`, or the path of a Python file.

    Args:
      kind: one of KINDS.
      name: what the config says.
      key: the setting that says it, for the sentence; KIND.name by default.

    Raises:
      ValueError: there is none, it cannot be imported, or it lacks one of the kind's parts.
    """
    key = f"{kind}.name" if key is None else key
    known = files(kind)
    if not name.endswith(".py"):
        module = known.get(name, KINDS[kind].fallback)
        if not module:
            rules.one_of(key, name, known)
        return importlib.import_module(module)
    path = Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"{key}={name!r} is no Python file: name one that exists.")
    found = _import_file(path.resolve(), path.stat().st_mtime_ns)
    for part in KINDS[kind].parts:
        if not hasattr(found, part):
            raise ValueError(f"{key}={name!r} has no {part}: see {KINDS[kind].example}.")
    return found


def settings(kind: str, name: str, *, key: str | None = None) -> type[Section]:
    """The settings that a thing declares; see `load`."""
    found = load(kind, name, key=key).Settings
    if not (isinstance(found, type) and issubclass(found, Section)):
        raise ValueError(f"Settings of the {kind} {name!r} must be a class X(Section).")
    return found


def check(kind: str, name: str, *settings: Any) -> None:
    """Calls the `check` of a thing, if it has one: ValueError for settings that do not fit."""
    found = load(kind, name)
    if hasattr(found, "check"):
        found.check(*settings)


def names(kind: str) -> tuple[str, ...]:
    """What the package itself offers of a kind, sorted."""
    return tuple(files(kind))


@functools.cache
def files(kind: str) -> dict[str, str]:
    """Name -> module of what the package offers."""
    package = importlib.import_module(KINDS[kind].package)
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = f"{package.__name__}.{info.name}"
        if info.ispkg or module == KINDS[kind].fallback:
            continue
        offered: Sequence[str] = (info.name,)
        if KINDS[kind].families:
            offered = importlib.import_module(module).NAMES
        found |= dict.fromkeys(offered, module)
    return dict(sorted(found.items()))


def stem(name: str) -> str:
    """The name of the section that holds a thing's settings: that of its file without `.py`."""
    return Path(name).stem


@functools.cache
def _import_file(path: Path, changed: int) -> types.ModuleType:
    """Runs a Python file once, and again when it has changed."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
