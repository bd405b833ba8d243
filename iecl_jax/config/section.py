"""What a setting is: `key(default, rule, text)`, gathered in small classes.

    class KNN(Section):
        k = key(20, POSITIVE, "neighbours")
        temperature = key(0.07, POSITIVE, "weights are exp(cosine / temperature)")

A section is never instantiated: it describes one `ConfigDict`. A section inside another one, as a
class or an attribute, is a nested ConfigDict; a section that inherits has its parents' keys first.
"""

from typing import Any, NamedTuple

import ml_collections

from iecl_jax.config.checks import Rule


class Key(NamedTuple):
    """One setting.

    Attributes:
      default: its value where neither a config file nor the command says otherwise; its type is the
        type of every value. A tuple may have any length unless the rule says otherwise.
      rule: what a value must obey beyond its type, a tuple of choices, or None. Floats are finite
        in any case.
      text: what it is, with its unit, in a few words.
    """

    default: Any
    rule: Rule | tuple[str, ...] | None
    text: str


def key(default: Any, rule: Rule | tuple[str, ...] | None, text: str) -> Any:
    """Declares a setting in a `Section`; see `Key`."""
    return Key(default, rule, text)


class Section:
    """The base of all sections; see the head of this file."""


def keys(section: type[Section], prefix: str = "") -> dict[str, Key]:
    """The settings of a section and of those inside it, by dotted name, in their order."""
    found: dict[str, Key] = {}
    for base in reversed(section.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Key):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, type) and issubclass(value, Section):
                found |= keys(value, f"{prefix}{name}.")
    return found


def defaults(section: type[Section]) -> ml_collections.ConfigDict:
    """A ConfigDict of a section, every key at its default."""
    return nested({name: each.default for name, each in keys(section).items()})


def nested(values: dict[str, Any]) -> ml_collections.ConfigDict:
    """The ConfigDict of values by dotted name."""
    config = ml_collections.ConfigDict()
    for name, value in values.items():
        *path, last = name.split(".")
        section = config
        for part in path:
            if part not in section:
                section[part] = ml_collections.ConfigDict()
            section = section[part]
        section[last] = value
    return config
