"""Draws the figure of a table; values that were not measured are left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from iecl_jax.tools.figures import bars, heat_map
from iecl_jax.tools.tables.format import Document, average, grid, measured_mean


def draw(document: Document) -> Figure | None:
    """Draws a heat map (grids with averages) or bars (times); returns None for other tables.

    Args:
      document: see `format`.
    """
    title = f"{document['title']}\nmeasured at scale {document['scale']}"
    rows = {row["label"]: row for row in document["rows"]}
    if document["kind"] == "time":
        pairs = [row for row in rows.values() if row["compared_with"]]
        if not pairs:
            times = np.stack([_times(row, "seconds_per_epoch") for row in rows.values()])
            unit = "seconds an epoch, of training steps alone"
            return bars.draw_times(times, labels=list(rows), title=title, unit=unit)
        return bars.draw_pairs(
            np.stack([_times(rows[row["compared_with"]], "step_ms_median") for row in pairs]),
            np.stack([_times(row, "step_ms_median") for row in pairs]),
            labels=[row["compared_with"] for row in pairs],
            notes=[f"{100 * row.get('overhead', {}).get('median', 0):+.1f} %" for row in pairs],
            title=title,
            unit="milliseconds a step",
        )
    if not document["averages"]:
        return None
    names, columns, cells = grid(document)
    found = [[measured_mean(cells[name, c]) for c in columns] for name in names]
    return heat_map.draw(
        np.array(found, np.float64),
        np.array([average(line) for line in found], np.float64),
        rows=names,
        columns=columns,
        titles=document["corner"],
        title=title,
        unit="linear top-1, %",
    )


def _times(row: Mapping[str, Any], name: str) -> np.ndarray:
    """Returns the value `name` of a row, with its lowest and highest round [3]; NaN if missing."""
    if not row.get("step_ms"):
        return np.full(3, np.nan)
    steps = np.array([row["step_ms_median"], min(row["step_ms"]), max(row["step_ms"])])
    return row[name] * steps / row["step_ms_median"]
