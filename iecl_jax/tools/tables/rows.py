"""A table of the paper as `configs/tables.py` lists it, and the commands that measure its rows."""

import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax.tools.runs import Run

SCALES = ("smoke", "small", "paper")
PROBE = "configs/linear_probe.py"


class Row(NamedTuple):
    """One row, or one cell of a grid.

    Attributes:
      label: its name, unique in the table.
      config: FILE:VARIANT at the scale of the paper.
      published: the paper's number, in the unit of the table, or its words; None if it has none.
      compared_with: label of the row that its change is measured from, or "".
      cell: (row, column) in a grid.
      paper_only: True for a row that smaller scales leave blank.
    """

    label: str
    config: str
    published: float | str | None = None
    compared_with: str = ""
    cell: tuple[str, str] = ("", "")
    paper_only: bool = False


class Table(NamedTuple):
    """A table or a figure of numbers.

    Attributes:
      title: its heading.
      source: data, network, length and metric of the published numbers.
      kind: accuracy | grid | time.
      rows: in the order in which they are shown.
      change: heading of the column of changes; "" for none.
      corner: what the rows and the columns of a grid are.
      averages: True for a grid with the mean of every row, and drawn as a heat map.
      images: by scale, the images of an epoch whose time is shown; {} for times of a step.
      flags: by scale, overrides of every row.
      timing: by scale, {"rounds", "steps"} of the time measurement.
    """

    title: str
    source: str
    kind: str
    rows: tuple[Row, ...]
    change: str = ""
    corner: tuple[str, str] = ("", "")
    averages: bool = False
    images: Mapping[str, int] = {}
    flags: Mapping[str, Sequence[str]] = {}
    timing: Mapping[str, Mapping[str, int]] = {}

    def rows_at(self, scale: str) -> list[Row]:
        """The rows that are measured at a scale."""
        return [row for row in self.rows if scale == "paper" or not row.paper_only]


def read_tables(path: Path) -> dict[str, Table]:
    """The TABLES of a file such as configs/tables.py, by name."""
    found: dict[str, dict[str, Any]] = runpy.run_path(str(path)).get("TABLES", {})
    return {
        name: Table(**(table | {"rows": tuple(Row(**row) for row in table["rows"])}))
        for name, table in found.items()
    }


def at_scale(config: str, scale: str) -> str:
    """`configs/x.py:byol` -> `configs/x.py:byol,small`; unchanged at the scale of the paper."""
    return config if scale == "paper" else f"{config},{scale}"


def folder_name(config: str) -> str:
    """`configs/resnet18.py:cifar10,byol` -> `resnet18-cifar10-byol`."""
    path, _, variant = config.partition(":")
    return "-".join([Path(path).stem, *filter(None, variant.split(","))])


def trainings(row: Row, seed: int, scale: str, folder: Path, flags: Sequence[str]) -> list[Run]:
    """The runs that measure the accuracy of a row with a seed, in their order.

    Smaller scales end pretraining with a linear classifier on fixed features. At the scale of the
    paper the linear evaluation of its section 4.1 follows, in the folder `linear_probe` of the run.

    Args:
      row: whose config is trained.
      seed: of pretraining and of the linear evaluation.
      scale: one of SCALES.
      folder: where the runs of this scale live.
      flags: for pretraining alone; the evaluation finds the data where pretraining found them.
    """
    home = folder / folder_name(row.config) / f"seed-{seed}"
    seeded = f"--config.seed={seed}"
    runs = [Run(at_scale(row.config, scale), home, (seeded, *flags))]
    if scale == "paper":
        runs.append(Run(PROBE, home / "linear_probe", (f"--config.checkpoint={home}", seeded)))
    return runs
