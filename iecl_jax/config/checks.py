"""Rules for values of a config; a broken one is one sentence that names the value and a way out."""

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections


class Rule(NamedTuple):
    """`holds(value)` and the words for it, as in "NAME=VALUE must be WANTED."."""

    holds: Callable[[Any], bool]
    wanted: str


POSITIVE = Rule(lambda value: value > 0, "more than 0")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "at least 0")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
BOOLEAN = Rule(lambda value: isinstance(value, bool), "True or False")

Rules = Mapping[str, Rule | Collection[str]]


def check(config: ml_collections.ConfigDict, rules: Rules) -> None:
    """Raises ValueError for the first value that breaks its rule; a collection is of choices."""
    for name, rule in rules.items():
        value: Any = config
        for part in name.split("."):
            value = value[part]
        if not isinstance(rule, Rule):
            one_of(name, value, rule)
        elif not rule.holds(value):
            raise ValueError(f"{name}={value} must be {rule.wanted}.")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raises ValueError with the nearest of the choices if `value` is none of them."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ValueError(f"{name}={value!r} is unknown: {hint}use one of {', '.join(choices)}.")


def multiple(name: str, value: int, of: int, what: str) -> None:
    """Raises ValueError with the nearest multiples if `value` is none of `of`."""
    if value % of:
        lower = value - value % of
        near = f"{lower} or {lower + of}" if lower else f"{of}"
        raise ValueError(f"{name}={value} must be a multiple of the {of} {what}: {near} would be.")


def divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    """Raises ValueError with the nearest divisors of `whole` if `divisor` is none of them."""
    if whole % divisor:
        options = [n for n in range(1, whole + 1) if whole % n == 0]
        near = sorted(sorted(options, key=lambda n: abs(n - divisor))[:3])
        raise ValueError(
            f"{name}={divisor} must divide {whole_name} ({whole}): "
            f"{' or '.join(map(str, near))} would."
        )


def leaf_names(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all values that are not ConfigDicts."""
    names = []
    for key in config:
        value = config[key]
        if isinstance(value, ml_collections.ConfigDict):
            names += leaf_names(value, f"{prefix}{key}.")
        else:
            names.append(f"{prefix}{key}")
    return names
