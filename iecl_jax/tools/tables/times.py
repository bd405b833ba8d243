"""Measures times of training steps for Fig. 7 and 8, by `python -m iecl_jax.tools.benchmark`."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from iecl_jax import config as config_lib
from iecl_jax.config.files import merged
from iecl_jax.tools.benchmark import timing
from iecl_jax.tools.runs import Runner
from iecl_jax.tools.tables.rows import Row, Table, at_scale, folder_name

BENCHMARK = ("-m", "iecl_jax.tools.benchmark")


class Call(NamedTuple):
    """A call of the benchmark, which measures one or two configs in turn.

    Attributes:
      rows: the rows that are measured together: one row, or a pair that is compared.
      configs: FILE:VARIANT of each row, at this scale.
      options: options of the benchmark.
      overrides: `--config.KEY=VALUE` for every config.
      path: the JSON that it writes. Its name contains a digest of all settings, so a file from
        other settings is never reused.
    """

    rows: tuple[Row, ...]
    configs: tuple[str, ...]
    options: tuple[str, ...]
    overrides: tuple[str, ...]
    path: Path

    def arguments(self) -> list[str]:
        """Returns the command without the name of the interpreter."""
        configs = [f"--config={config}" for config in self.configs]
        return [*BENCHMARK, *configs, f"--json={self.path}", *self.options, *self.overrides]


def calls(table: Table, scale: str, folder: Path, flags: Sequence[str]) -> list[Call]:
    """Returns the calls that measure a table. Two rows that are compared share a call.

    Args:
      table: a table of kind "time".
      scale: a key of `table.timing`.
      folder: the folder for results of this scale.
      flags: overrides `--config.KEY=VALUE` for every config.
    """
    rows = {row.label: row for row in table.rows_at(scale)}
    partners = {row.compared_with: row for row in rows.values() if row.compared_with}
    overrides = tuple(merged([*table.flags.get(scale, ()), *flags]))
    lengths = table.timing[scale]
    rounds, steps = f"--rounds={lengths['rounds']}", f"--steps={lengths['steps']}"
    options = (rounds, steps, "--only=step")
    found = []
    for row in rows.values():
        if row.compared_with:
            continue
        group = (row, partners[row.label]) if row.label in partners else (row,)
        configs = tuple(at_scale(each.config, scale) for each in group)
        name = f"{folder_name(row.config)}-{_digest(configs, overrides, lengths)}.json"
        found.append(Call(group, configs, options, overrides, folder / "times" / name))
    return found


def _digest(configs: Sequence[str], overrides: Sequence[str], lengths: Mapping[str, int]) -> str:
    try:
        settings = [config_lib.to_json(config_lib.load(config, overrides)) for config in configs]
    except ValueError:  # The benchmark will report what is wrong.
        settings = [*configs, *overrides]
    return hashlib.sha256(json.dumps([settings, dict(lengths)]).encode()).hexdigest()[:12]


def measure(runner: Runner, call: Call) -> bool:
    """Runs a call unless its JSON exists, prints how it ended, and returns whether it succeeded.

    The output of the benchmark goes to a .txt file beside the JSON.
    """
    if runner.stopped:
        return False
    name = " and ".join(row.label for row in call.rows)
    if call.path.exists():
        print(f"{name}: measured before", flush=True)
        return True
    log = call.path.with_suffix(".txt")
    code = runner.call(call.arguments(), log)
    runner.tell(name, code, log)
    return code == 0


def records(call: Call, images: int | None) -> list[dict[str, Any]]:
    """Returns the rows of a call for the table's JSON.

    Args:
      call: a call, finished or not.
      images: images per epoch; None = no time of an epoch.

    Returns:
      A dictionary for each row. It has the fields of the row. If the row was measured, it also has
      the benchmark's record; "git", {"revision", "dirty"} or None; with `images`,
      "seconds_per_epoch", the time of the steps of an epoch; and for a row that is compared with
      the other, "overhead", {"median", "low", "high"} over the rounds of the ratio of their times
      minus 1.
    """
    entries: dict[str, dict[str, Any]] = {}
    if call.path.exists():
        written = json.loads(call.path.read_text())
        written = written if isinstance(written, list) else [written]
        entries = {entry["config"]: entry for entry in written}
    found = []
    for row, config in zip(call.rows, call.configs, strict=True):
        entry = entries.get(config, {})
        record: dict[str, Any] = {
            "label": row.label,
            "published": row.published,
            "compared_with": row.compared_with,
            **entry,
            "config": config,
        }
        if entry:
            git = {"revision": entry["git_revision"], "dirty": entry["git_dirty"]}
            record["git"] = git if git["revision"] else None
        if entry and images:
            steps = images // entry["batch_size"]
            record["seconds_per_epoch"] = steps * entry["step_ms_median"] / 1e3
        if entry and row.compared_with:
            ratios = timing.ratios(entry["step_ms"], entries[call.configs[0]]["step_ms"])
            record["overhead"] = timing.extent([ratio - 1 for ratio in ratios])
        found.append(record)
    return found
