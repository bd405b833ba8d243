"""Writing a file whole or not at all: whoever opens it meets the old content or the new."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


@contextlib.contextmanager
def open_whole(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write, which becomes `path` when the block ends.

    Until then it lies beside `path` under a name of its own, so that several processes may write
    the same file. An error in the block removes it and leaves `path` as it was. A kill leaves
    `path` as it was too, and the other file beside it.

    Args:
      path: its folder is made if there is none.
      mode: "wb", or "w" for text, in UTF-8; what UTF-8 cannot say is written as an escape.

    Raises:
      OSError: the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    try:
        with open(scratch, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a crash of the machine could keep the name and lose the data
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
