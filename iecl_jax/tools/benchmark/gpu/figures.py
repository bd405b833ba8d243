"""The file of figures: one JSON object a line, whole lines, each written when it is known.

    {"name": "r18_32", "state": "measured", "value": {...}, "command": "python -m ...", ...}

A line has "name", "state" ("measured", "failed" or "left out"), "why" (a sentence, "" if it was
measured), "value" (what was measured, else null), "command", "seconds" (of the command), "at" (UTC)
and the facts of the call: "device", "versions", "revision", "seed" and "smoke".
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "figures.jsonl"
MEASURED, FAILED, LEFT_OUT = "measured", "failed", "left out"
Figure = dict[str, Any]


class Figures:
    """The figures of a folder, by name: the newest line of each, but one that has a value stays."""

    def __init__(self, folder: Path):
        """Reads what is there. Half a line, which a kill left, does not count."""
        self._path = folder / NAME
        self.all: dict[str, Figure] = {}
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        for line in text.splitlines():
            try:
                figure = json.loads(line)
            except ValueError:
                continue
            self._keep(figure)
        self._whole = not text or text.endswith("\n")

    def _keep(self, figure: Figure) -> None:
        if not self.measured(figure["name"]):
            self.all[figure["name"]] = figure

    def add(self, figure: Figure) -> None:
        """Appends a line; it is on the disk when this returns."""
        line = json.dumps(figure) + "\n"
        with self._path.open("a") as file:
            file.write(line if self._whole else "\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._whole = True
        self._keep(figure)

    def measured(self, name: str) -> bool:
        """Returns whether a figure has a value."""
        return self.all.get(name, {}).get("state") == MEASURED

    def value(self, name: str) -> Any:
        """Returns the value of a figure, None if it has none."""
        return self.all[name]["value"] if self.measured(name) else None

    def refuse_others(self, facts: Mapping[str, Any]) -> None:
        """Raises ValueError if there are figures of another device, or of the other sizes."""
        for name in ("device", "smoke"):
            for figure in self.all.values():
                if figure[name] != facts[name]:
                    raise ValueError(
                        f"{self._path} has figures with {name}={figure[name]!r}, and this call has "
                        f"{name}={facts[name]!r}: use another --out."
                    )
