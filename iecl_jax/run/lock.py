"""Keeps a second process out of a WORKDIR in which one is at work."""

import contextlib
import datetime
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import jax
from absl import logging

from iecl_jax.data.files import LOCK
from iecl_jax.run import distributed

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds WORKDIR for the processes of this run while the block runs.

    The system releases the lock of a process that dies. If the block leaves nothing in WORKDIR, a
    folder that was made for the lock is removed again.

    Raises:
      ValueError: another run works there, on any machine that shares the folder.
      OSError: the folder cannot be written.
    """
    folder, made, file = Path(workdir), [], None
    with distributed.together():
        if jax.process_index() == 0:
            made = _make(folder)
            file = _locked(folder)
    try:
        yield
    finally:
        if file is not None:
            # Removed before the lock is released, so that nobody else's file is removed.
            (folder / LOCK).unlink(missing_ok=True)
            file.close()
        for path in made:
            with contextlib.suppress(OSError):  # It is not empty.
                path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Makes a folder and its parents, and returns those that were missing, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _locked(folder: Path) -> IO[str] | None:
    """Returns the open lock file; None if the file system has no locks."""
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(
                f"{folder} is in use by {holder}: wait until that has ended, or use another "
                "--workdir."
            ) from None
        except OSError as error:
            file.close()
            path.unlink(missing_ok=True)
            if error.errno not in _UNSUPPORTED:
                raise
            logging.warning("%s has no file locks: start nothing else in it.", folder)
            return None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # Its holder removed the file between `open` and `flock`.
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    holder = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
    with contextlib.suppress(OSError):  # On a full disk the lock holds without its text.
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), holder.encode())
    return file
