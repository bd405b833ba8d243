"""Loads a config file and its variant, and applies the overrides of the command line."""

import ast
import re
import runpy
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
from ml_collections.config_flags.tuple_parser import TupleParser

from iecl_jax.config import kinds, own_files, schema, section
from iecl_jax.config.pretrain import Pretrain
from iecl_jax.config.rules import shown
from iecl_jax.config.shipped import find

_ONE_AT_A_TIME = threading.Lock()  # runpy changes sys.modules and sys.argv as it runs
IE_CL = "ie_cl"  # what `--config.method.name` also takes
_SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class Loaded(NamedTuple):
    """A config as the command line gives it.

    Attributes:
      config: the complete config, with the overrides applied.
      changed: {dotted name: value} of the keys to which the overrides gave another value.
      rest: the arguments that are not overrides.
    """

    config: ml_collections.ConfigDict
    changed: dict[str, Any]
    rest: list[str]


def split(flag: str) -> tuple[str, str]:
    """Splits FILE[:VARIANT] into (file, variant); a comma in the place of the colon is the same."""
    found = re.match(r"(.+?\.py)[:,](.*)", flag)
    return (found[1], found[2]) if found else (flag, "")


def load(flag: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Loads the config FILE[:VARIANT] and applies overrides of the form `--config.KEY=VALUE`.

    Raises:
      ValueError: there is no such file, variant or key, or a value does not fit its key.
    """
    loaded = parse(flag, overrides)
    if loaded.rest:
        raise ValueError(f"{loaded.rest[0]!r} is no override: write --config.KEY=VALUE.")
    return loaded.config


def parse(flag: str, arguments: Sequence[str]) -> Loaded:
    """Does what `load` does, for a command line that may hold other flags too.

    Of two values for a key, the last one counts.
    """
    config = _get_config(flag)
    texts, rest = split_overrides(arguments)
    given: dict[str, Any] = dict(texts)  # The last of a key counts.
    if given.get("method.name") == IE_CL and config.job == "pretrain":
        given = schema.ie_cl(config) | given | {"method.name": Pretrain.method.name.default}
    before = section.leaves(config)
    chosen: dict[str, Any] = {}
    # A choice may add keys that are choices too: views bring operators, operators bring settings.
    for _ in range(3):
        known = schema.keys(config)
        chosen = {
            name: _value(name, given[name], known[name].default)
            for name in section.choosing_keys(schema.root(config), config)
            if name in given
        }
        config = schema.choose(config, chosen)
    sentence = schema.unknown_key(config, given)
    if sentence:
        # A data set that does not exist has none of the settings that were meant for it.
        if config.data.get("name"):
            kinds.check("data", config.data.name, config.data)
        raise ValueError(sentence)
    known, leaves = schema.keys(config), section.leaves(config)
    for name in given.keys() - leaves.keys():
        inside = [leaf for leaf in leaves if leaf.startswith(f"{name}.")]
        raise ValueError(f"--config.{name} is a section: set one of its keys, {', '.join(inside)}.")
    before = leaves | {name: before.get(name) for name in chosen}
    for name, value in given.items():
        like = known[name].default if name in known else leaves[name]
        section.put(config, name, _value(name, value, like))
    after = section.leaves(schema.settled(config))
    changed = {name: after[name] for name in given if after[name] != before[name]}
    return Loaded(config, changed, rest)


def run(path: str | Path) -> dict[str, Any]:
    """Runs the Python file that `shipped.find` finds, and returns what it defines.

    Raises:
      ValueError: there is none, or it fails; the message names the line.
    """
    file = find(path)
    with _ONE_AT_A_TIME, own_files.running(file):
        return runpy.run_path(str(file))


def _get_config(flag: str) -> ml_collections.ConfigDict:
    """Returns the config of a file, completed with defaults."""
    path, variant = split(flag)
    found = run(path)
    if "get_config" not in found:
        raise ValueError(f"{path} is no config: it has no get_config; see configs/quickstart.py.")
    with own_files.running(find(path)):
        config = found["get_config"](*filter(None, [variant]))
    return schema.complete(config)


def split_overrides(
    arguments: Sequence[str], of: str = "config"
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """Splits arguments into [(dotted key, text or None)] of the overrides, and the others.

    An override is `--config.KEY=TEXT` or `--config.KEY TEXT`, and for a boolean also `--config.KEY`
    or `--noconfig.KEY`; with another word in the place of "config" if `of` is that.
    """
    found: list[tuple[str, str | None]] = []
    others: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        name, equals, after = word.partition("=")
        text, bare = after if equals else None, name.lstrip("-")
        if bare == name or not bare.removeprefix("no").startswith(f"{of}."):
            others.append(word)
            continue
        if not equals and bare.startswith("no"):
            text = "False"
        elif not equals and words and (not words[0].startswith("-") or _is_number(words[0])):
            text = words.pop(0)
        found.append((bare.removeprefix("no").removeprefix(f"{of}."), text))
    return found, others


def override(key: str, text: str | None) -> str:
    """Returns the argument `--config.KEY=TEXT`."""
    return f"--config.{key}" if text is None else f"--config.{key}={text}"


def merged(arguments: Sequence[str]) -> list[str]:
    """Returns a program's arguments without overrides that a later one of the same key replaces."""
    found, others = split_overrides(arguments)
    return [*others, *(override(key, text) for key, text in dict(found).items())]


def refuse_contradictions(arguments: Sequence[str], of: str = "config") -> None:
    """Raises ValueError if a command line that a person typed gives two values to a key."""
    found: dict[str, str | None] = {}
    for key, text in split_overrides(arguments, of)[0]:
        if found.setdefault(key, text) != text:
            raise ValueError(
                f"--{of}.{key} is given twice, as {found[key]} and {text}: take one out."
            )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _value(name: str, text: Any, like: Any) -> Any:
    """Returns the command's text as a value of the type of `like`; what is no text stays.

    None is the text of a switch that is named without a value.

    Raises:
      ValueError: it cannot be one.
    """
    if text is None:
        if isinstance(like, bool):
            return True
        raise ValueError(f"--config.{name} has no value: write --config.{name}=VALUE.")
    if not isinstance(text, str) or isinstance(like, str):
        return text
    try:
        if isinstance(like, bool):
            return _SWITCH[text.lower()]
        if isinstance(like, int):
            return int(text, 16) if text.startswith("0x") else int(text)
        if isinstance(like, float):
            return float(text)
        if isinstance(like, tuple):
            values = TupleParser().parse(text)
            numbers = like and isinstance(like[0], float)
            return tuple(float(v) if numbers and type(v) is int else v for v in values)
        return ast.literal_eval(text)
    # What Python raises for texts that are no value, or are nested too deeply to be read.
    except (
        KeyError,
        ValueError,
        TypeError,
        SyntaxError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ):
        raise ValueError(_misfit(name, text, like)) from None


def _misfit(name: str, text: str, like: Any) -> str:
    if isinstance(like, bool):
        wanted = "True or False"
    elif isinstance(like, tuple):
        wanted = f"a tuple, such as {like!r}"
    else:
        wanted = "a whole number" if isinstance(like, int) else "a number"
    return f"--config.{name}={shown(text)} must be {wanted}."
