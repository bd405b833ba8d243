"""The numbers of a run as text: WORKDIR/metrics.jsonl, one JSON object a line, one line a step.

    {"step": 50, "train/loss": 3.25, "train/epoch": 2.27}
    {"step": 100, "train/loss": 3.01, "train/epoch": 4.55, "eval/knn_top1": 0.91}

The steps increase. A number that is not finite is null.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iecl_jax.data import files
from iecl_jax.run.workdir import plain
from iecl_jax.run.writer import Writer

NAME = "metrics.jsonl"


class MetricsFile(Writer):
    """Writes the file. Every number is in the file when the call that wrote it returns."""

    def __init__(self, workdir: str | os.PathLike, step: int):
        """Opens the file of a run that has taken `step` steps.

        Lines of later steps, which the run will take again, and half a line that a kill left are
        cut off, both at once or not at all.
        """
        path = Path(workdir) / NAME
        lines = [line for line in read(workdir) if line["step"] <= step]
        texts = [_text(line) for line in lines]
        whole = "".join(texts)
        if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != whole:
            with files.open_whole(path, "w") as file:
                file.write(whole)
        self._file = path.open("r+b")
        self._line: dict[str, Any] = lines[-1] if lines else {"step": -1}
        self._begin = len(whole.encode()) - (len(texts[-1].encode()) if texts else 0)

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Adds numbers to the line of a step; a number of the same name is replaced."""
        if step != self._line["step"]:
            self._begin, self._line = self._file.seek(0, os.SEEK_END), {"step": int(step)}
        self._line |= plain(scalars)
        self._file.seek(self._begin)
        self._file.write(_text(self._line).encode())
        self._file.truncate()
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def replace(workdir: str | os.PathLike, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes a file of one line, in the place of an earlier one."""
    with files.open_whole(Path(workdir) / NAME, "w") as file:
        file.write(_text({"step": step} | plain(scalars)))


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the lines of WORKDIR/metrics.jsonl that are whole; [] if there is no such file."""
    path = Path(workdir) / NAME
    if not path.exists():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"
