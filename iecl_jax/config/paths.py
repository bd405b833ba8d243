"""The paths that a command names."""

import errno
import os
import re
import tempfile
from pathlib import Path


def local(name: str, text: str | os.PathLike) -> Path:
    """Returns a path of this machine, with `~` expanded.

    Args:
      name: the flag or setting, for the message.
      text: its value.

    Raises:
      ValueError: the text is an address, such as gs://bucket/run.
    """
    if found := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):/", str(text)):
        raise ValueError(
            f"{name}={text} is an address of {found[1]}, and files are kept in folders: mount it, "
            "and name the folder."
        )
    return Path(text).expanduser()


def refuse_unmakeable(flag: str, folder: Path) -> None:
    """Raises ValueError if a folder does not exist and cannot be made. Leaves nothing behind.

    Call it before the work whose result shall lie there. Only an attempt can tell: in /proc, for
    example, nobody can make a folder, whatever the permissions say.

    Args:
      flag: what names the folder, for the message.
      folder: the folder.
    """
    try:
        if folder.is_dir():
            return
        if folder.exists():
            raise FileExistsError(errno.EEXIST, "it is a file")
        there = next(path for path in folder.absolute().parents if path.exists())
        os.rmdir(tempfile.mkdtemp(dir=there))
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"{flag}={folder} cannot be made ({why}): name another folder.") from None
