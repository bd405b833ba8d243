"""Applies the declared settings to a config: its keys, its defaults, and its older versions."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from iecl_jax.config import kinds, own_files, section
from iecl_jax.config.evaluation import Evaluation
from iecl_jax.config.export import Export
from iecl_jax.config.pretrain import Pretrain
from iecl_jax.config.rules import check_value, one_of
from iecl_jax.config.section import Key, Section

# {pattern of a key's earlier name: its present name}. `renamed` puts a group before each pattern,
# so the pattern's own groups count from 2.
_OF_VIEW = r"(augment\.(?:anchor|query)|(?:linear_)?probe\.augment)"
RENAMED = {
    "augment.mean": "data.mean",
    "augment.std": "data.std",
    rf"{_OF_VIEW}\.(brightness|contrast|saturation|hue)": r"\g<2>.jitter.\g<3>",
    rf"{_OF_VIEW}\.([a-z]+)_(prob|scale|ratio|interpolation|degrees|sigma|std)": (
        r"\g<2>.\g<3>.\g<4>"
    ),
    r"eval\.knn_k": "eval.knn.k",
    r"eval\.knn_temperature": "eval.knn.temperature",
    r"eval\.linear_epochs": "eval.linear.num_epochs",
    r"eval\.labels_per_class": "eval.comparison.labels_per_class",
    r"probe\.(.+)": r"linear_probe.\g<2>",
}


def root(config: Any) -> type[Section]:
    """Returns the section that describes a whole config of this job.

    Raises:
      ValueError: the job is unknown, or it evaluates and the config trains.
    """
    job = config.get("job", "pretrain")
    check_value("job", job, "", None)
    if job == "pretrain":
        return Pretrain
    if not job.endswith(".py"):
        one_of("job", job, ("pretrain", "export", *kinds.names("evaluation")))
    if "train" in config:
        raise ValueError(
            f"job={job!r} is set in a config that trains: leave it, and evaluate the run with "
            "--config=configs/evaluate.py:NAME --config.checkpoint=WORKDIR."
        )
    return Export if job == "export" else Evaluation


def keys(config: Any) -> dict[str, Key]:
    """Returns every setting of a config by dotted name, also those that the config lacks."""
    return section.keys(root(config), config)


def new(job: str = "pretrain") -> ml_collections.ConfigDict:
    """Returns a config of a job with every key at its default; files of configs/ start from it."""
    return complete(ml_collections.ConfigDict({"job": job}))


def complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a copy, in the schema's order, with the default of every key that the config lacks.

    Keys that the schema does not know stay, and `check` reports them.
    """
    config = ml_collections.ConfigDict(config.to_dict())
    given = section.leaves(config)
    known = {name: given.get(name, each.default) for name, each in keys(config).items()}
    return section.nested(known | {name: given[name] for name in given if name not in known})


def choose(
    config: ml_collections.ConfigDict, choices: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """Returns a copy with other values for keys that decide which keys exist (`method.name`).

    The settings of what is no longer chosen are removed. Those of the new choice get their
    defaults, also where the earlier choice had a setting of the same name. Two names of one file,
    such as two ResNets, have the same settings, whose values stay.

    Args:
      config: the config to change.
      choices: values by dotted name.
    """
    before = keys(config)
    changed = ml_collections.ConfigDict(config.to_dict())
    for name, value in choices.items():
        section.put(changed, name, value)
    gone = before.keys() - keys(changed).keys() | _of_other_files(config, changed)
    kept = {name: v for name, v in section.leaves(changed).items() if name not in gone}
    return complete(section.nested(kept))


def ie_cl(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Returns the settings, by dotted name, that make IE-CL of a pretraining config.

    IE-CL is no method of its own, but momentum contrast without a queue, with SAIB, its loss terms
    and spectral normalisation. The declared defaults have all of them.
    """
    known = keys(choose(config, {"method.name": Pretrain.method.name.default}))
    parts = ("method.", "objective.", "saib.enabled", "encoder.spectral_norm")
    return {name: each.default for name, each in known.items() if name.startswith(parts)}


def _of_other_files(
    before: ml_collections.ConfigDict, after: ml_collections.ConfigDict
) -> set[str]:
    """Returns the settings in `after` of the files that `before` did not name in the same place."""
    found: set[str] = set()
    for part, described in section.members(root(after)).items():
        also = getattr(described, "also", None)
        if also is not None:
            old, new = (also(config[part], config[part]) for config in (before, after))
            if old is not new:
                found |= section.keys(new, prefix=f"{part}.").keys()
    return found


def to_json(config: ml_collections.ConfigDict) -> str:
    """Returns a config as sorted, indented JSON; tuples become lists, floats keep all digits.

    Raises:
      ValueError: a value is not a number, string, bool, None, sequence or ConfigDict.
    """
    try:
        return json.dumps(config.to_dict(), sort_keys=True, indent=2)
    except TypeError as error:
        raise ValueError(f"the config cannot be written as JSON: {error}.") from error


def from_json(text: str) -> ml_collections.ConfigDict:
    """Returns the config of a run or checkpoint, also of one that an earlier revision wrote.

    Renamed keys get their new names. Keys that were added since get their defaults, because a
    default is what the program did before the key existed.

    Raises:
      ValueError: the text is not JSON, or not an object.
      own_files.Foreign: it names Python files that the command does not name.
    """
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"a config is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise ValueError("a config must be a JSON object.")
    return from_dict(values)


def from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Does what `from_json` does, from the parsed values."""
    found = {renamed(name): value for name, value in section.leaves(_tuples(values)).items()}
    own_files.refuse_foreign(found)
    config = settled(complete(section.nested(found)))
    for data in _data_sections(config):  # Earlier revisions accepted a folder that is not read.
        data.dir = "" if getattr(kinds.load("data", data.name), "NO_FOLDER", False) else data.dir
    return config


def _data_sections(config: ml_collections.ConfigDict) -> list[ml_collections.ConfigDict]:
    """Returns the sections of a config that name a pretraining's data source."""
    own = config.get("data") if config.get("job", "pretrain") == "pretrain" else None
    found = (own, config.get("pretrain", {}).get("data"))
    return [data for data in found if data is not None and "name" in data]


def settled(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Sets `data.mean` and `data.std` to () where they equal the source's, and returns the config.

    Both spellings mean the same run, which is recognised by its config, so only one is kept.
    """
    for data in _data_sections(config):
        source = kinds.load("data", data.name)
        for name, own in (("mean", source.MEAN), ("std", source.STD)):
            data[name] = () if data[name] == tuple(own) else data[name]
    return config


def renamed(name: str) -> str:
    """Returns the present name of a key that may have an earlier name."""
    for old, current in RENAMED.items():
        name = re.sub(rf"^((?:pretrain\.)?){old}$", rf"\g<1>{current}", name)
    return name


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def unknown_key(config: ml_collections.ConfigDict, names: Iterable[str]) -> str | None:
    """Returns the error message for the first of the dotted names that the config does not have.

    The message suggests similar keys. None means that each name is a key or a section.
    """
    known = section.leaves(config)
    for name in names:
        if name in known or any(leaf.startswith(f"{name}.") for leaf in known):
            continue
        last = name.split(".")[-1]
        near = difflib.get_close_matches(name, known, n=3)
        near += [leaf for leaf in known if leaf.split(".")[-1] == last and leaf not in near]
        new_name = renamed(name)
        if new_name != name and new_name in known:
            near = [new_name]
        near = [leaf for leaf in near if leaf.isprintable()]
        hint = f"did you mean {' or '.join(near[:3])}?" if near else f"keys: {', '.join(config)}."
        return f"config has no key {name!r}: {hint}"
    return None
