"""The paths that a command names."""

import os
import re
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
