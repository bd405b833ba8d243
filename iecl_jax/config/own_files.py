"""The user's own Python files: which of them may run, and the line in which one failed.

A file runs because the command names it, or a config file that the command names. A checkpoint or
a run's folder may come from somebody else: a file that only its config names is refused, unless the
command has `--trust_checkpoint_code`.
"""

import contextlib
import functools
import importlib.util
import linecache
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from iecl_jax.config import section

TRUST_FLAG = "--trust_checkpoint_code"
_ran: set[Path] = set()  # what runs already needs no more trust
_trusts_checkpoints = False


class Foreign(ValueError):
    """Raised for the config of a checkpoint or run that names files which the command does not."""


def trust_checkpoints(yes: bool = True) -> None:
    """Lets the configs of checkpoints and run folders name Python files that are then run."""
    global _trusts_checkpoints
    _trusts_checkpoints = yes


@contextlib.contextmanager
def trusting(yes: bool) -> Iterator[None]:
    """A context in which, if `yes`, the configs of checkpoints may name files that are then run."""
    before = _trusts_checkpoints
    trust_checkpoints(before or yes)
    try:
        yield
    finally:
        trust_checkpoints(before)


def is_foreign(value: Any) -> bool:
    """Returns whether a value names a Python file that this process neither ran nor trusts."""
    return not _trusts_checkpoints and any(_resolved(path) not in _ran for path in _files(value))


def names_files(config: Any) -> bool:
    """Returns whether a config names a Python file, of whomever."""
    return any(map(_files, section.leaves(config).values()))


def has_run() -> bool:
    """Returns whether this process has run a file that does not come with the package."""
    package = Path(__file__).resolve().parents[1]
    shipped = (package, (package / "configs").resolve())
    return not all(any(path.is_relative_to(folder) for folder in shipped) for path in _ran)


def _files(value: Any) -> list[Path]:
    names = value if isinstance(value, tuple | list) else [value]
    return [Path(name) for name in names if isinstance(name, str) and name.endswith(".py")]


def refuse_foreign(values: Mapping[str, Any]) -> None:
    """Raises Foreign if values of a checkpoint's config, by dotted name, name foreign files."""
    found = [f"{name}={value!r}" for name, value in values.items() if is_foreign(value)]
    if found:
        raise Foreign(
            f"the config of this checkpoint or run names Python code: {', '.join(found)}. Code can "
            f"do anything on this machine: read it, and add {TRUST_FLAG} to run it."
        )


def import_file(path: Path) -> types.ModuleType:
    """Imports a Python file, once for each version of it.

    Raises:
      ValueError: the file cannot be read or fails; the message names its line.
    """
    path = _resolved(path)
    with running(path):
        return _import(path, path.stat().st_mtime_ns)


@functools.cache
def _import(path: Path, changed: int) -> types.ModuleType:
    """`changed`, the file's modification time, makes the cache import it again."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def running(path: Path) -> Iterator[None]:
    """A context that runs the code of a file; a failure is a ValueError that names its line."""
    path = _resolved(path)
    _ran.add(path)
    try:
        yield
    except Exception as error:
        raise ValueError(sentence(error, path)) from error


def sentence(error: BaseException, running: Path | None = None) -> str | None:
    """Returns the sentence that a user needs, or None if the error is no mistake of the user.

    A ValueError that iecl_jax or a file of the user raises is a sentence already. To any other
    error that comes out of such a file, the line is added. Errors of the system name their path.

    Args:
      error: the error, as it was caught.
      running: the file that was being run, whose every error is a mistake of the user.
    """
    if isinstance(error, SyntaxError) and error.filename and _resolved(error.filename) in _ran:
        return f"{error.filename}, line {error.lineno}: {_words(error)}"
    places = [(tb.tb_frame, tb.tb_lineno) for tb in _tracebacks(error.__traceback__)]
    own = [place for place in places if _is_own(place[0])]
    said = isinstance(error, ValueError | FloatingPointError)
    if said and (_is_raised(*places[-1]) or not (own or running)):
        return str(error)
    if own:
        frame, line = own[-1]
        return f"{frame.f_code.co_filename}, line {line}: {_words(error)}"
    if running is not None:
        return f"{running}: {_words(error)}"
    return _words(error) if isinstance(error, OSError) else None


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """A context in which a mistake of the user ends the process with a sentence and exit code 1."""
    try:
        yield
    except Exception as error:
        words = sentence(error)
        if words is None:
            raise
        logging.debug("traceback", exc_info=True)
        sys.exit(f"error: {words}")


def _tracebacks(found: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while found is not None:
        yield found
        found = found.tb_next


def _is_own(frame: types.FrameType) -> bool:
    return _resolved(frame.f_code.co_filename) in _ran


def _is_raised(frame: types.FrameType, line: int) -> bool:
    """Returns whether a line is a `raise` in a file of the user, of iecl_jax or of configs."""
    package = frame.f_globals.get("__name__", "").partition(".")[0]
    text = linecache.getline(frame.f_code.co_filename, line).strip()
    return text.startswith("raise ") and (package in ("iecl_jax", "configs") or _is_own(frame))


def _words(error: BaseException) -> str:
    """Returns an error on one line, with its type unless the words need none."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return f"{' and '.join(names) or 'a file'}: {error.strerror}."
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return " ".join(f"{kind}{text}".split()).rstrip(".") + "."


def _resolved(path: str | Path) -> Path:
    return Path(path).expanduser().resolve()
