"""Proves by SHA-256 that the small files of a data set are whole: descriptions, cached labels."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from absl import logging

from iecl_jax.data.files import open_whole
from iecl_jax.data.listing import shown

SUMS = "SHA256SUMS"  # in the format of the program sha256sum


def check(folder: Path, names: Iterable[str]) -> str | None:
    """Compares files with the sums in their folder, which are written if there are none yet.

    Args:
      folder: the folder of the files; it may be read-only.
      names: the files that must exist.

    Returns:
      None, or what is wrong: a clause that begins with the path of the file.
    """
    found = {}
    for name in names:
        try:
            found[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror})"
    path = folder / SUMS
    lines = {f"{digest}  {name}" for name, digest in found.items()}
    try:
        known = set(path.read_text(errors="replace").splitlines())
    except FileNotFoundError:
        _write(path, "\n".join([*sorted(lines), ""]).encode())
        return None
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    for line in sorted(lines - known):
        name = line.rpartition("  ")[2]
        return f"{folder / name} does not have its sum in {path}, so one of the two is damaged"
    for line in sorted(known - lines):
        if not (folder / line.rpartition("  ")[2]).exists():
            return f"{path} has the line {shown(line)!r}, but there is no such file"
    return None


def read_labels(path: Path, of: bytes, length: int) -> np.ndarray | None:
    """Returns the labels, int32 [length], that `write_labels` wrote; None if there are none.

    Labels that are damaged, or of another data set, count as none.

    Args:
      path: the file.
      of: what identifies the data set.
      length: the number of labels.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        content = b""
    seal, labels = content[:32], content[32:]
    if seal != _seal(labels, of) or len(labels) != 4 * length:
        logging.warning("%s is damaged or of other files: the labels are read again.", path)
        return None
    return np.frombuffer(labels, "<i4").astype(np.int32)


def write_labels(path: Path, of: bytes, labels: np.ndarray) -> None:
    """Writes labels, int32 [N], for `read_labels`; does nothing if the folder is read-only."""
    content = labels.astype("<i4").tobytes()
    _write(path, _seal(content, of) + content)


def _seal(content: bytes, of: bytes) -> bytes:
    return hashlib.sha256(of + content).digest()


def _write(path: Path, content: bytes) -> None:
    try:
        with open_whole(path) as file:
            file.write(content)
    except OSError as error:
        logging.info("%s is not kept: %s", path, error)
