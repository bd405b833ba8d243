"""Plans and takes the runs that sweep the settings; `test_settings_sweep.py` says which.

A base is a command. A row is a change of many settings at once, {dotted name: value}; it is one run
of the base's command with these overrides. A want is a list of values of one setting, of which some
row must have one.
"""

import functools
import json
import math
import pathlib
import random
import shutil
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import setting_values

from iecl_jax import config as config_lib
from iecl_jax import main
from iecl_jax.config import kinds, schema
from iecl_jax.evals import scheduled
from iecl_jax.evals.parts import jobs
from iecl_jax.train import pretraining

Row = dict[str, Any]
CHANGED = 0.7  # share of the settings that a row changes besides those that are wanted
MOST_HALVINGS = 14


class Base(NamedTuple):
    """A command: a config and its overrides, and the beginnings of the settings to sweep in it.

    A setting whose name begins with one of `choices` is swept if it is a choice or a switch.
    """

    name: str
    flag: str
    overrides: Row
    swept: tuple[str, ...]
    choices: tuple[str, ...] = ()

    def arguments(self, row: Row) -> list[str]:
        """The overrides of the base and of a row, as the command has them."""
        return [
            f"--config.{name}={setting_values.text(value)}"
            for name, value in (self.overrides | row).items()
        ]

    def load(self, row: Row) -> Any:
        """The config of the base's command with a row."""
        return config_lib.load(self.flag, self.arguments(row))


class Want(NamedTuple):
    """A setting and values, one of which must be tried."""

    name: str
    values: tuple[Any, ...]


def refusal(base: Base, row: Row) -> str | None:
    """The sentence that refuses a row before anything is compiled, or None."""
    try:
        config = base.load(row)
        if config.job == "pretrain":
            task = pretraining.prepare(config)
            scheduled(config, task.experiment.method, task.split, "")
        else:
            config_lib.check(config, jax.local_device_count())
            evaluation = kinds.load("evaluation", config.job, key="job")
            settings = config.get(kinds.stem(config.job), {})
            if hasattr(evaluation, "check"):
                frozen = ml_collections.FrozenConfigDict(config.data)
                subject = _subject(config.job, config.checkpoint, config.best, frozen)
                evaluation.check(subject, settings)
    except ValueError as error:
        return str(error)
    return None


@functools.lru_cache(maxsize=8)
def _subject(job: str, checkpoint: str, best: bool, images: Any) -> Any:
    """The network of a job and its images, loaded once for many rows."""
    own = hasattr(kinds.load("evaluation", job), "Data")
    config = config_lib.new(job if own else "knn")  # Those without images of their own share one.
    config.update({"checkpoint": checkpoint, "best": best})
    config.data = images.as_configdict()
    return jobs.load(config, "")


def shrink(base: Base) -> Base:
    """The base with the sizes of its own sections small: a new method's may be for ImageNet."""
    config = base.load({})
    given = config_lib.leaves(config)
    # Twice, since a setting that bounds another may come after it.
    for name, key in 2 * [*schema.keys(config).items()]:
        if (
            name.startswith(base.swept)
            and name not in base.overrides
            and _is_size(key, given[name])
        ):
            for size in (16, 32, 8, 4):
                smaller = base._replace(overrides=base.overrides | {name: size})
                before, after = refusal(base, {}), refusal(smaller, {})
                if after is None or (before is not None and after != before):
                    base = smaller
                    break
    return base


def _is_size(key: Any, value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    # What is larger is a limit, such as that of pixels.
    return whole and 32 < value <= 10**5 and key.default == value


def wants(base: Base) -> list[Want]:
    """What the base sweeps: each choice, another number, and 0 or False where it is legal."""
    config = base.load({})
    given, found = config_lib.leaves(config), []
    for name, key in schema.keys(config).items():
        asked = name.startswith(base.swept)
        asked |= name.startswith(base.choices) and setting_values.is_choice(key)
        # A name that the base gives makes it the base that it is.
        if not asked or (name in base.overrides and isinstance(key.default, str | tuple)):
            continue
        values = setting_values.others(name, key, given[name])
        off = tuple(value for value in values if setting_values.is_off(value))
        others = tuple(value for value in values if not setting_values.is_off(value))
        if setting_values.is_choice(key) or isinstance(key.default, str):
            found += [Want(name, (value,)) for value in values]
        else:
            found += [Want(name, some) for some in (others, off) if some]
    return found


def plan(base: Base, wanted: Sequence[Want], most: int = 40) -> tuple[list[Row], list[str]]:
    """Rows that together have what is wanted, and the sentences that refuse the rest alone."""
    rng = random.Random(base.name)
    rows: list[Row] = []
    refused: list[str] = []
    offs = [want for want in wanted if setting_values.is_off(want.values[0])]
    ons = [want for want in wanted if want not in offs]
    for asked in (ons, offs):
        left = list(asked)
        while left and len(rows) < most:
            first = left[0]
            row = _row(base, left, ons, rng)
            if first.name not in row:  # It does not even fit alone.
                rest = first.values[1:]
                if rest:
                    left[0] = first._replace(values=rest)
                else:
                    refused.append(refusal(base, {first.name: first.values[0]}) or "")
                    left.pop(0)
                continue
            rows.append(row)
            left = [want for want in left if row.get(want.name, rows) not in want.values]
            # What did not fit beside others comes first in the next row.
            left.sort(key=lambda want: -(want.name in row))
    return rows, refused


def first_row(base: Base, wanted: Sequence[Want]) -> Row:
    """As many of the wanted changes as fit together, without what switches something off."""
    ons = [want for want in wanted if not setting_values.is_off(want.values[0])]
    return _row(base, ons, [], random.Random(base.name))


def _row(base: Base, left: Sequence[Want], ons: Sequence[Want], rng: random.Random) -> Row:
    """The first want that is left, as many others of them as fit, and a share of the rest."""
    row: Row = {}

    def add(block: list[tuple[str, Any]]) -> None:
        if refusal(base, row | dict(block)) is None:
            row.update(block)
        elif len(block) > 1:
            add(block[: len(block) // 2])
            add(block[len(block) // 2 :])

    add([(left[0].name, left[0].values[0])])
    asked = {left[0].name: None}
    for others, share in ((left[1:], 1.0), (rng.sample(ons, len(ons)), CHANGED)):
        block = []
        for want in others:
            if want.name not in asked and rng.random() < share:
                asked[want.name] = None
                block.append((want.name, want.values[0]))
        add(block) if block else None
    return row


def take(base: Base, row: Row, workdir: pathlib.Path, *, keep: bool = False) -> str:
    """Runs the command to its end; returns what is wrong with it, "" if nothing.

    The folder of a run that is right is removed unless `keep`.
    """
    command = ["iecl_jax.main", f"--config={base.flag}", f"--workdir={workdir}"]
    try:
        main.run(main.parse([*command, *base.arguments(row)]))
        results = json.loads((workdir / "results.json").read_text())
    except (Exception, SystemExit):
        return traceback.format_exc(limit=-4)[-1500:]
    finally:
        jax.clear_caches()
    if results["job"] == "pretrain":
        if not math.isfinite(results["metrics"]["loss"] or math.nan):
            return "the results have no loss."
        if not (workdir / "report.html").exists():
            return "there is no report."
    if not keep:
        shutil.rmtree(workdir)
    return ""


def fewest(row: Row, fails: Callable[[Row], str]) -> Row:
    """As few of a failing row's changes as still fail, by leaving out parts of it."""
    parts, halvings = 2, 0
    while len(row) > 1 and halvings < MOST_HALVINGS:
        names = list(row)
        size = math.ceil(len(names) / parts)
        blocks = [names[i : i + size] for i in range(0, len(names), size)]
        for block in blocks:
            halvings += 1
            kept = {
                n: row[n] for n in (block if parts == 2 else names) if parts == 2 or n not in block
            }
            if fails(kept):
                row, parts = kept, 2
                break
        else:
            if parts >= len(names):
                break
            parts = min(2 * parts, len(names))
    return row


def sweep(base: Base, rows: Iterable[Row], folder: pathlib.Path) -> list[str]:
    """Takes the rows; returns a text for each that failed, with the fewest changes that fail."""
    failures, found = [], []
    for number, row in enumerate(rows):
        attempts = iter(range(10**6))

        def fails(changes: Row, number=number, attempts=attempts) -> str:
            if refusal(base, changes) is not None:
                return ""
            return take(base, changes, folder / f"{base.name}-{number}-{next(attempts)}")

        for few in found:  # Known already: what else the row changes is left.
            if few.items() <= row.items():
                row = {name: value for name, value in row.items() if name not in few}
        if not (wrong := fails(row)):
            continue
        few = fewest(row, fails)
        found.append(few)
        failures.append(f"--config={base.flag} {' '.join(base.arguments(few))}\n{wrong}")
    return failures
