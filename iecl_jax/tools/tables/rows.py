"""The types of tables and rows, and the runs that measure a row. configs/tables.py has the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax import config as config_lib
from iecl_jax.config import files, own_files
from iecl_jax.tools.runs import Run

SCALES = ("smoke", "small", "paper")
PROBE = "configs/linear_probe.py"


class Row(NamedTuple):
    """A row of a table, or a cell of a grid.

    Attributes:
      label: the name of the row, unique in the table.
      config: FILE:VARIANT at the scale of the paper.
      published: the paper's number in the unit of the table, or its text; None if it has none.
      compared_with: label of the row from which the change is measured; "" = no comparison.
      cell: (row, column) in a grid.
      paper_only: True if smaller scales leave the row blank.
    """

    label: str
    config: str
    published: float | str | None = None
    compared_with: str = ""
    cell: tuple[str, str] = ("", "")
    paper_only: bool = False


class Table(NamedTuple):
    """A table, or a figure that shows numbers.

    Attributes:
      title: the heading.
      source: data, network, length of training and metric of the published numbers.
      kind: "accuracy", "grid" or "time".
      rows: the rows in the order of the table.
      change: heading of the column of changes; "" = no such column.
      corner: names of the two axes of a grid: of its rows and of its columns.
      averages: True for a grid that shows the mean of every row and is drawn as a heat map.
      images: scale -> images per epoch, to show the time of an epoch; {} = show that of a step.
      flags: scale -> overrides for every row.
      timing: scale -> {"rounds", "steps"} of the time measurement.
      notes: sentences about the published numbers.
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
    notes: tuple[str, ...] = ()

    def rows_at(self, scale: str) -> list[Row]:
        """Returns the rows that are measured at a scale."""
        return [row for row in self.rows if scale == "paper" or not row.paper_only]


def read_tables(path: str | Path) -> dict[str, Table]:
    """Returns the TABLES of a file such as configs/tables.py, by name.

    Raises:
      ValueError: a table or a row has a field that is unknown or lacks one, or a row is compared
        with a label that the table does not have.
    """
    found: dict[str, dict[str, Any]] = files.run(path).get("TABLES", {})
    tables = {}
    for name, table in found.items():
        try:
            rows = tuple(Row(**row) for row in table["rows"])
            tables[name] = Table(**(table | {"rows": rows}))
        except (TypeError, KeyError) as error:
            message = str(error).replace("__new__()", "")
            raise ValueError(f"table {name!r} of {path}: {message}.") from error
        labels = {row.label for row in rows}
        for row in rows:
            if row.compared_with and row.compared_with not in labels:
                raise ValueError(
                    f"table {name!r} of {path}: {row.label!r} is compared with "
                    f"{row.compared_with!r}, which is no label: use one of {', '.join(labels)}."
                )
    return tables


def at_scale(config: str, scale: str) -> str:
    """Returns `configs/x.py:byol,small` for `configs/x.py:byol`; unchanged at scale "paper"."""
    return config if scale == "paper" else f"{config},{scale}"


def folder_name(config: str) -> str:
    """Returns `resnet18-cifar10-byol` for `configs/resnet18.py:cifar10,byol`."""
    path, _, variant = config.partition(":")
    return "-".join([Path(path).stem, *filter(None, variant.split(","))])


def trainings(row: Row, seed: int, scale: str, folder: Path, flags: Sequence[str]) -> list[Run]:
    """Returns the runs that measure the accuracy of a row with one seed, in order.

    At smaller scales, the pretraining ends with a linear classifier on fixed features. At the scale
    of the paper, the linear evaluation of its section 4.1 follows, in the subfolder `linear_probe`
    of the run.

    Args:
      row: the row; its config is trained.
      seed: seed of the pretraining and of the linear evaluation.
      scale: one of SCALES.
      folder: the folder for runs of this scale.
      flags: flags of the pretraining. The evaluation does not get them: it reads the pretraining's
        config, also for the folder of the data.
    """
    home = folder / folder_name(row.config) / f"seed-{seed}"
    seeded = f"--config.seed={seed}"
    runs = [Run(at_scale(row.config, scale), home, (seeded, *flags))]
    if scale == "paper":
        names_files = own_files.names_files(config_lib.load(row.config, flags))
        flags = (f"--config.checkpoint={home}", seeded)
        runs.append(Run(PROBE, home / "linear_probe", flags, trusts=names_files))
    return runs
