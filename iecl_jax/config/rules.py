"""Rules for the values of a config; each error names the value and what to write instead."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value, and its words: a breach raises "NAME=VALUE must be WANTED."."""

    holds: Callable[[Any], bool]
    wanted: str


POSITIVE = Rule(lambda value: value > 0, "more than 0")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "at least 0")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
INSIDE_SHARE = Rule(lambda value: 0 < value < 1, "between 0 and 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
SEED = Rule(lambda seed: 0 <= seed < 2**32, "from 0 to 2**32 - 1")
# The upper bound is beyond any machine: without it, arithmetic on absurd sizes would never end.
COUNT = Rule(lambda value: 0 < value <= 10**9, "from 1 to 10**9")
COUNT_OR_NONE = Rule(lambda value: 0 <= value <= 10**9, "from 0 to 10**9")
RANGE = Rule(
    lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1], "(low, high) with 0 < low <= high"
)
SHARES = Rule(
    lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= 1,
    "(low, high) with 0 < low <= high <= 1",
)
RATES = Rule(lambda rates: len(rates) > 0 and min(rates) > 0, "one number or more, above 0")


def _three(values: Sequence[Any], above: float) -> bool:
    """Returns whether there are three finite numbers above a bound."""
    numbers = [v for v in values if isinstance(v, int | float) and above < v < math.inf]
    return len(values) == len(numbers) == 3


CHANNELS_OR_NONE = Rule(lambda v: not v or _three(v, -math.inf), "() or three finite numbers")
SCALES_OR_NONE = Rule(lambda v: not v or _three(v, 0), "() or three finite numbers above 0")


def check_value(name: str, value: Any, default: Any, rule: Rule | tuple[str, ...] | None) -> None:
    """Raises ValueError if a value differs in type from its default, or breaks its rule.

    Args:
      name: dotted name of the key, for the message.
      value: the value in the config.
      default: the default of the key; its type is the type that is wanted.
      rule: the rule of the key, see `section.Key`.
    """
    wanted = _type_wanted(value, default)
    if wanted is not None:
        raise ValueError(f"{name}={value!r} must be {wanted}.")
    if isinstance(rule, tuple):
        one_of(name, value, rule)
    elif rule is not None and not rule.holds(value):
        raise ValueError(f"{name}={value!r} must be {rule.wanted}.")


def _type_wanted(value: Any, default: Any) -> str | None:
    """Returns the words for the type of `default`, or None if `value` has that type."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, str):
        return None if isinstance(value, str) else "text"
    # bool is a subclass of int, so it is excluded by name here and below.
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole else "a whole number"
    if isinstance(default, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and math.isfinite(value) else "a finite number"
    if not isinstance(value, tuple | list):
        return "a tuple, such as " + repr(default)
    inner = [_type_wanted(item, default[0]) for item in value] if default else []
    return f"a tuple, each of it {words[0]}" if (words := [w for w in inner if w]) else None


def one_of(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError, with the most similar choices, if `value` is not one of the choices."""
    if value not in choices:
        hint = near(value, choices)
        raise ValueError(f"{name}={value!r} is unknown: {hint}use one of {', '.join(choices)}.")


def near(value: Any, choices: Iterable[str]) -> str:
    """Returns "did you mean ...? " with the most similar choices, or "" if none is similar."""
    found = difflib.get_close_matches(str(value), choices)
    return f"did you mean {' or '.join(map(repr, found))}? " if found else ""


def multiple(name: str, value: int, of: int, what: str) -> None:
    """Raises ValueError, with the nearest multiples, unless `value` is a multiple of `of`."""
    if value % of:
        lower = value - value % of
        near = f"{lower} or {lower + of}" if lower else f"{of}"
        raise ValueError(f"{name}={value} must be a multiple of the {of} {what}: {near} would be.")


def divides(name: str, divisor: int, whole_name: str, whole: int) -> None:
    """Raises ValueError, with the nearest divisors, unless `divisor` divides `whole`."""
    if whole % divisor:
        low = [n for n in range(1, math.isqrt(whole) + 1) if whole % n == 0]
        options = {*low, *(whole // n for n in low)}
        near = sorted(sorted(options, key=lambda n: (abs(n - divisor), n))[:3])
        raise ValueError(
            f"{name}={divisor} must divide {whole_name} ({whole}): "
            f"{' or '.join(map(str, near))} would."
        )
