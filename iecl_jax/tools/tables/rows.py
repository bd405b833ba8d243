"""The types of tables and rows, and the runs that measure a row. configs/tables.py has the data."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax import config as config_lib
from iecl_jax.config import files, kinds, own_files, rules
from iecl_jax.tools.runs import Run

SCALES = ("smoke", "small", "paper")
SUPERVISED = "supervised"  # the label of the row whose weights are those of another program
# Their linear_top1: with the fixed rate of section 4.1, and with the best rate of a grid.
PROBES = ("configs/linear_probe.py", "configs/linear.py")
METRICS = {
    "linear_top1": "linear top-1, %",
    "linear_probe:linear_top1": "linear top-1 by section 4.1, %",
    "knn_top1": "kNN top-1, %",
}
_DECIDED = ("job", "seed", "checkpoint")  # by the row, not by the command


class Row(NamedTuple):
    """A row of a table, or a cell of a grid.

    Attributes:
      label: the name of the row, unique in the table.
      config: FILE:VARIANT at the scale of the paper; "" = nothing is pretrained, and the table's
        evaluations take their untrained network.
      published: the paper's number in the unit of the table, or its text; a tuple of numbers, one
        for each of the table's metrics, if the paper has several; None if it has none.
      compared_with: label of the row from which the change is measured; "" = no comparison.
      cell: (row, column) in a grid.
      scales: the scales at which it is measured; at the others it is blank.
      checkpoint: the file of weights that the evaluations of a row without a config take.
    """

    label: str
    config: str
    published: float | str | tuple[float, ...] | None = None
    compared_with: str = ""
    cell: tuple[str, str] = ("", "")
    scales: tuple[str, ...] = SCALES
    checkpoint: str = ""

    @property
    def folder(self) -> str:
        """The name of the folder for its runs."""
        if self.config:
            return folder_name(self.config)
        return SUPERVISED if self.checkpoint else "untrained"


class Table(NamedTuple):
    """A table, or a figure that shows numbers.

    Attributes:
      title: the heading.
      source: data, network, length of training and metric of the published numbers.
      kind: "accuracy", "grid" or "time".
      rows: the rows in the order of the table.
      metrics: name in results.json -> heading of its column. The change is that of the first one.
        JOB:NAME is that of one evaluation, whose column is only there where it follows.
      evaluations: scale -> configs, FILE, of the evaluations that follow each pretraining. Without
        any, the pretraining ends with the metrics.
      change: heading of the column of changes; "" = no such column.
      corner: names of the two axes of a grid: of its rows and of its columns.
      averages: True for a grid that shows the mean of every row and is drawn as a heat map.
      images: scale -> images per epoch, to show the time of an epoch; {} = show that of a step.
      flags: scale -> overrides for the pretraining of every row.
      timing: scale -> {"rounds", "steps"} of the time measurement.
      notes: sentences about the published numbers.
    """

    title: str
    source: str
    kind: str
    rows: tuple[Row, ...]
    metrics: Mapping[str, str] = METRICS
    evaluations: Mapping[str, Sequence[str]] = {"paper": PROBES}
    change: str = ""
    corner: tuple[str, str] = ("", "")
    averages: bool = False
    images: Mapping[str, int] = {}
    flags: Mapping[str, Sequence[str]] = {}
    timing: Mapping[str, Mapping[str, int]] = {}
    notes: tuple[str, ...] = ()

    def with_supervised(self, checkpoint: str) -> "Table":
        """Returns the table with a file of weights for its supervised row, at every scale.

        Raises:
          ValueError: the table has no such row.
        """
        if all(row.label != SUPERVISED for row in self.rows):
            raise ValueError("--supervised is for a table with a supervised row, which is 2b.")
        rows = (
            row._replace(checkpoint=checkpoint, scales=SCALES) if row.label == SUPERVISED else row
            for row in self.rows
        )
        return self._replace(rows=tuple(rows))

    def rows_at(self, scale: str) -> list[Row]:
        """Returns the rows that are measured at a scale."""
        return [row for row in self.rows if scale in row.scales]

    def evaluations_at(self, scale: str) -> list[str]:
        """Returns FILE[:VARIANT] of each evaluation that follows a pretraining at a scale."""
        follow = () if self.kind == "time" else self.evaluations.get(scale, ())
        return [at_scale(config, scale) for config in follow]

    def metrics_at(self, scale: str) -> dict[str, str]:
        """Returns the metrics that are measured at a scale."""
        follow = {folder_name(config) for config in self.evaluations.get(scale, ())}
        return {
            name: title
            for name, title in self.metrics.items()
            if ":" not in name or name.partition(":")[0] in follow
        }


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
    return config if scale == "paper" else f"{config}{',' if ':' in config else ':'}{scale}"


def folder_name(config: str) -> str:
    """Returns `resnet18-cifar10-byol` for `configs/resnet18.py:cifar10,byol`."""
    path, variant = files.split(config)
    return "-".join([Path(path).stem, *filter(None, variant.split(","))])


def for_each(evaluations: Iterable[str], flags: Sequence[str]) -> dict[str, list[str]]:
    """Returns {evaluation: its overrides}, those whose key it has.

    Args:
      evaluations: their configs, FILE[:VARIANT].
      flags: overrides `--config.KEY=VALUE`, which a person types as `--evaluation.KEY=VALUE`. A key
        after the name of a job is for that job alone: `segmentation.data.train_split`.

    Raises:
      ValueError: none of the evaluations has a key, or one lacks the folder of its images.
    """
    configs = {name: config_lib.load(name) for name in evaluations}
    known = {name: config_lib.leaves(config).keys() for name, config in configs.items()}
    found: dict[str, list[str]] = {name: [] for name in configs}
    for key, text in files.split_overrides(flags)[0]:
        if not configs:
            raise ValueError(f"--evaluation.{key}: no evaluation follows here: take it out.")
        if key.split(".")[-1] in _DECIDED:
            raise ValueError(f"--evaluation.{key} is that of the row: take it out.")
        own = {
            name: known[name] & {key, key.removeprefix(f"{kinds.stem(config.job)}.")}
            for name, config in configs.items()
        }
        if not any(own.values()):
            near = rules.near(key, sorted(set().union(*known.values())))
            hint = near or f"--config=FILE --print_config lists those of {' and '.join(configs)}."
            raise ValueError(f"--evaluation.{key} is no setting: {hint.strip()}")
        for name, keys in own.items():
            found[name] += [files.override(each, text) for each in keys]
    for name, own_flags in found.items():
        _require_images(name, config_lib.load(name, own_flags))
    return found


def _require_images(name: str, config: Any) -> None:
    """Raises ValueError if an evaluation with images of its own lacks their folder."""
    own = hasattr(kinds.load("evaluation", config.job, key="job"), "Data")
    if own and not (config.data.get("dir") or config.data.get("generated")):
        raise ValueError(
            f"{name} has images of its own: name their folder, --evaluation.data.dir=FOLDER."
        )


def runs_of(
    row: Row,
    seed: int,
    scale: str,
    folder: Path,
    flags: Sequence[str],
    evaluations: Mapping[str, Sequence[str]],
) -> dict[str, Run]:
    """Returns the runs that measure a row with one seed, in order.

    Args:
      row: the row; its config is trained.
      seed: seed of the pretraining and of the evaluations; of the untrained network too.
      scale: one of SCALES.
      folder: the folder for runs of this scale.
      flags: flags of the pretraining. The evaluations do not get them: they read the pretraining's
        config, mostly also for the folder of the data.
      evaluations: {config: its flags} of those that follow.

    Returns:
      {"": the pretraining, unless there is none, NAME: an evaluation in the subfolder NAME}.
    """
    home = folder / row.folder / f"seed-{seed}"
    seeded = f"--config.seed={seed}"
    runs, network, names_files = {}, f"--config.pretrain.seed={seed}", False
    if row.checkpoint:
        network = f"--config.checkpoint={row.checkpoint}"
    if row.config:
        config = at_scale(row.config, scale)
        runs[""] = Run(config, home, (seeded, *flags))
        network = f"--config.checkpoint={home}"
        names_files = bool(evaluations) and own_files.names_files(config_lib.load(config, flags))
    for each, own in evaluations.items():
        name = Path(files.split(each)[0]).stem
        runs[name] = Run(each, home / name, (network, seeded, *own), trusts=names_files)
    return runs
