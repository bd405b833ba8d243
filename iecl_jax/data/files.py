"""Writes files atomically: a reader finds either the old content or the new one."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOCK = ".lock"  # In the folder of a run, while a process works there.
_SCRATCH = ".partial"


@contextlib.contextmanager
def open_whole(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Opens a temporary file for writing, which replaces `path` when the block ends.

    The temporary file lies beside `path` under a unique name, so several processes may write the
    same file. An error in the block removes the temporary file and does not change `path`. A kill
    does not change `path` either, but leaves the temporary file.

    Args:
      path: the file; its folder is created if it does not exist.
      mode: "wb", or "w" for text in UTF-8. Characters that UTF-8 cannot encode become escapes.

    Yields:
      The open temporary file.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path)
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    try:
        with open(scratch, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            # Without it, a crash of the machine could keep the new name but lose the data.
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(scratch)):
            error.filename, error.filename2 = str(path), None  # the name that the user knows
        raise


def scratch_of(path: Path) -> Path:
    """Returns a new name beside `path` for what will replace it, see `remove_scratch`."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}{_SCRATCH}")


def remove_scratch(folder: Path) -> None:
    """Removes the temporary files that killed processes left in a folder that nobody else uses."""
    for path in folder.glob(f".*{_SCRATCH}"):
        path.unlink(missing_ok=True)


def is_run(folder: Path) -> bool:
    """Returns whether a folder is the workdir of a run or of an evaluation, even a new one."""
    return (folder / LOCK).exists() or (
        (folder / "config.json").exists()
        and any((folder / name).exists() for name in ("provenance.json", "checkpoints"))
    )
