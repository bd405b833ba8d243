"""Declares settings: `key(default, rule, text)` in small classes, the sections.

    class KNN(Section):
        k = key(20, POSITIVE, "neighbours")
        temperature = key(0.07, POSITIVE, "weights are exp(cosine / temperature)")

A section is never instantiated: it describes one `ConfigDict`. A section nested in another one
describes a nested ConfigDict. A section that inherits has the keys of its parents first. Two static
methods let a section depend on its own values; so a config that names a file gets that file's
settings:

    also(own, given)    -> a Section, whose keys stand beside the section's own
    inside(own, given)  -> {name: Section}, further sections nested in this one

`own` holds the values of the section's own keys, and `given` everything that the config has there.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import ml_collections

from iecl_jax.config.rules import Rule, shown


class Key(NamedTuple):
    """One setting.

    Attributes:
      default: the value unless a config file or the command sets another, which must have the same
        type.
      rule: a condition on the value besides its type, a tuple of choices, or None. Numbers must
        always be finite.
      text: what the setting is, with its unit, in a few words.
    """

    default: Any
    rule: Rule | tuple[str, ...] | None
    text: str


def key(default: Any, rule: Rule | tuple[str, ...] | None, text: str) -> Any:
    """Declares a setting in a `Section`; see `Key` for the arguments."""
    return Key(default, rule, text)


class Section:
    """The base of all sections; see the head of this file."""

    also: Callable[[Mapping[str, Any], Any], type["Section"]] | None = None
    inside: Callable[[Mapping[str, Any], Any], Mapping[str, type["Section"]]] | None = None


S = TypeVar("S", bound=Section)


def keys(section: type[Section], given: Any = None, prefix: str = "") -> dict[str, Key]:
    """Returns the settings of a section by dotted name, in the order of their declaration.

    Args:
      section: the section.
      given: the values that the config has in this section, as a ConfigDict or dict, complete or
        not. They decide which files are named, and so which further settings there are.
      prefix: text before every name.
    """
    return {f"{prefix}{name}": each for name, each, _ in _walk(section, given)}


def choosing_keys(section: type[Section], given: Any = None) -> list[str]:
    """Returns the dotted names of the settings that decide which other settings exist."""
    return [name for name, _, chooses in _walk(section, given) if chooses]


def _walk(section: type[Section], given: Any) -> Iterator[tuple[str, Key, bool]]:
    """Yields (dotted name, key, whether it decides which other settings exist) of every setting."""
    given = given if isinstance(given, Mapping | ml_collections.ConfigDict) else {}
    chooses = section.also is not None or section.inside is not None
    own: dict[str, Any] = {}
    nested_sections: dict[str, type[Section]] = {}
    for name, value in members(section).items():
        if isinstance(value, Key):
            own[name] = given.get(name, value.default)
            yield name, value, chooses
        else:
            nested_sections[name] = value
    if section.also is not None:
        yield from _walk(section.also(own, given), given)
    if section.inside is not None:
        nested_sections |= section.inside(own, given)
    for name, inner in nested_sections.items():
        for inner_name, value, inner_chooses in _walk(inner, given.get(name)):
            yield f"{name}.{inner_name}", value, inner_chooses


def members(section: type[Section]) -> dict[str, Any]:
    """Returns the keys and nested sections of a class and its parents, in declaration order.

    A class leaves out a key of its parent by setting the name to None.
    """
    found: dict[str, Any] = {}
    for base in reversed(section.__mro__):
        for name, value in vars(base).items():
            if value is None:
                found.pop(name, None)
            nested = isinstance(value, type) and issubclass(value, Section)
            if isinstance(value, Key) or (nested and not name.startswith("_")):
                found[name] = value
    return found


def defaults(section: type[Section], given: Any = None) -> ml_collections.ConfigDict:
    """Returns a ConfigDict of a section with every key at its default; see `keys` for `given`."""
    return nested({name: each.default for name, each in keys(section, given).items()})


def with_defaults(section: type[S], values: Mapping[str, Any]) -> type[S]:
    """Returns the section with other defaults for some of its own keys, by name."""
    changed = {name: getattr(section, name)._replace(default=x) for name, x in values.items()}
    return type(section.__name__, (section,), changed)


def without(section: type[Section], *names: str) -> type[Section]:
    """Returns the section without some of its own keys, by name."""
    return type(section.__name__, (section,), dict.fromkeys(names))


def nested(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns a nested ConfigDict of the values, which are given by dotted name."""
    config = ml_collections.ConfigDict()
    for name, value in values.items():
        put(config, name, value)
    return config


def put(config: ml_collections.ConfigDict, name: str, value: Any) -> None:
    """Sets a value by its dotted name, and creates the sections above it where they are missing.

    Raises:
      ValueError: what should be a section is a value, a name is one of Python's own, or a number
        is too large for a float.
    """
    *path, last = name.split(".")
    for part in (*path, last):
        if part.startswith("__"):
            raise ValueError(f"{part!r} in {name} cannot be the name of a setting: take another.")
    for depth, part in enumerate(path, 1):
        with config.unlocked():
            if part not in config:
                config[part] = ml_collections.ConfigDict()
            config = config[part]
        if not isinstance(config, ml_collections.ConfigDict):
            raise ValueError(f"{'.'.join(path[:depth])} has a value, so {name} is no setting.")
    # The check of the config reports types. A new key has none yet, and to ignore types is slow.
    untyped = config.ignore_type() if last in config else contextlib.nullcontext()
    try:
        with config.unlocked(), untyped:
            config[last] = value
    except OverflowError:
        raise ValueError(f"{name}={shown(value)} must be a finite number.") from None


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns every value of a ConfigDict by dotted name; an empty section has none."""
    found: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, Mapping | ml_collections.ConfigDict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
