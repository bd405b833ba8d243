"""Loads a config file and its variant, and applies the overrides of the command line."""

import ast
import runpy
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.tuple_parser import TupleParser

from iecl_jax.config import kinds, schema, section
from iecl_jax.config.shipped import find

_ONE_AT_A_TIME = threading.Lock()  # runpy changes sys.modules and sys.argv as it runs


class Loaded(NamedTuple):
    """A config as the command line gives it.

    Attributes:
      config: the complete config, with the overrides applied.
      changed: the dotted names of the keys that the overrides set.
      rest: the arguments that are not overrides.
    """

    config: ml_collections.ConfigDict
    changed: tuple[str, ...]
    rest: list[str]


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
    """Does what `load` does, for a command line that may hold other flags too."""
    config = _run(flag)
    given = _overrides(arguments)
    # A choice may add keys that are choices too: views bring operators, operators bring settings.
    for _ in range(3):
        chosen = {
            name: _literal(name, given[name], section.leaves(config)[name])
            for name in section.choosing_keys(schema.root(config), config)
            if name in given
        }
        config = schema.choose(config, chosen)
    sentence = schema.unknown_key(config, given)
    if sentence:
        # A data set that does not exist has none of the settings that were meant for it.
        if config.job == "pretrain":
            kinds.check("data", config.data.name, config.data)
        raise ValueError(sentence)
    values, command = flags.FlagValues(), ["", *arguments]
    try:
        holder = config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=command, lock_config=False
        )
        rest = values(command, known_only=True)[1:]
    except (flags.Error, TypeError, ValueError) as error:
        shown = " ".join(f"--config.{name}={text}" for name, text in given.items())
        raise ValueError(f"{shown}: {error}") from error
    return Loaded(schema.settled(holder.value), tuple(given), rest)


def _run(flag: str) -> ml_collections.ConfigDict:
    """Runs the config file and returns its config, completed with defaults."""
    path, _, variant = flag.partition(":")
    file = find(path)
    with _ONE_AT_A_TIME:
        found = runpy.run_path(str(file))
    if "get_config" not in found:
        raise ValueError(f"{path} is no config: it has no get_config; see configs/quickstart.py.")
    return schema.complete(found["get_config"](*filter(None, [variant])))


def _overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Returns {dotted key: text} of the overrides among the arguments.

    An override is `--config.KEY=TEXT` or `--config.KEY TEXT`, and for a boolean also `--config.KEY`
    or `--noconfig.KEY`.
    """
    found = {}
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, text = argument.partition("=")
        bare = name.lstrip("-")
        if len(bare) == len(name) or not bare.removeprefix("no").startswith("config."):
            continue
        off = bare.startswith("no")
        text = text if equals else "False" if off else following
        found[bare.removeprefix("no").removeprefix("config.")] = text
    return found


def _literal(name: str, text: str, like: Any) -> Any:
    """Returns the command's text as a value of the type of `like`, or else the text itself.

    Raises:
      ValueError: `like` is a tuple and the text is not.
    """
    if isinstance(like, str):
        return text
    if isinstance(like, tuple):
        try:
            return TupleParser().parse(text)
        except ValueError:
            raise ValueError(f"{name}={text} must be a tuple, such as {like!r}.") from None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
