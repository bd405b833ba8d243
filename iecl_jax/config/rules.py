"""Rules for the values of a config; each error names the value and what to write instead."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_SMALLEST, _LARGEST = 1.2e-38, 3.4e38  # of float32, in which the numbers are used
_LONGEST_TEXT = 1000  # characters
_MOST_SHOWN = 100  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value, and its words: a breach raises "NAME=VALUE must be WANTED."."""

    holds: Callable[[Any], bool]
    wanted: str


def _whole(low: int, high: int) -> Rule:
    """Returns the rule of a whole number that is counted out or allocated.

    The upper bounds are beyond any use. Without them a slip of the keyboard would ask for more than
    any machine has, and arithmetic on it might never end.
    """
    return Rule(lambda value: low <= value <= high, f"from {low} to 10**{round(math.log10(high))}")


POSITIVE = Rule(lambda value: value > 0, "more than 0")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "at least 0")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
INSIDE_SHARE = Rule(lambda value: 0 < value < 1, "between 0 and 1")
BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and less than 1")
SEED = Rule(lambda seed: 0 <= seed < 2**32, "from 0 to 2**32 - 1")
COUNT, COUNT_OR_NONE = _whole(1, 10**9), _whole(0, 10**9)
PIXELS = Rule(lambda value: 2 <= value <= 10**4, "from 2 to 10**4")  # a blur reads neighbours
PIXELS_OR_NONE = Rule(lambda value: value == 0 or PIXELS.holds(value), "0, or from 2 to 10**4")
WIDTH, WIDTH_OR_NONE = _whole(1, 10**6), _whole(0, 10**6)
FEW, FEW_OR_NONE = _whole(1, 1000), _whole(0, 1000)  # layers, threads, steps of one program
BOXES = _whole(1, 10**5)  # rows of a list of boxes, each of which may be compared with each other
RANGE = Rule(
    lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1], "(low, high) with 0 < low <= high"
)
SHARES = Rule(
    lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= 1,
    "(low, high) with 0 < low <= high <= 1",
)
_CLASSES = Rule(lambda value: 2 <= value <= 10**6, "from 2 to 10**6")
CLASSES_OR_NONE = Rule(
    lambda widths: len(widths) <= 1000 and all(map(_CLASSES.holds, widths)),
    f"() or whole numbers {_CLASSES.wanted}",
)
CLASSES = Rule(
    lambda widths: len(widths) > 0 and CLASSES_OR_NONE.holds(widths),
    f"one whole number or more, {_CLASSES.wanted}",
)
RATES = Rule(lambda rates: 0 < len(rates) <= 1000 and min(rates) > 0, "one number or more, above 0")


def _three(values: Sequence[Any], above: float) -> bool:
    """Returns whether there are three numbers above a bound."""
    return len(values) == 3 and all(_is_number(value) and value > above for value in values)


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
    if wanted is None and isinstance(rule, tuple):
        one_of(name, value, rule)
    elif wanted is None and isinstance(rule, Rule) and not rule.holds(value):
        wanted = rule.wanted
    if wanted is not None:
        raise ValueError(f"{name}={shown(value)} must be {wanted}.")


def shown(value: Any) -> str:
    """Returns the value as Python has it, or its beginning if that is long."""
    try:
        text = " ".join(repr(value).splitlines())
    except ValueError:  # Python prints no number of thousands of digits.
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "a value"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _is_number(value: Any) -> bool:
    """Returns whether a value is a number that stays one in float32: no inf, and no 0 by underflow.

    bool is a subclass of int, so it is excluded by name.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return value == 0 or _SMALLEST <= abs(value) <= _LARGEST


def _type_wanted(value: Any, default: Any) -> str | None:
    """Returns the words for the type of `default`, or None if `value` has that type."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "True or False"
    if isinstance(default, str):
        line = isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_TEXT
        return None if line else f"text of one line, at most {_LONGEST_TEXT} characters"
    if isinstance(default, int):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole else "a whole number"
    if isinstance(default, float):
        return None if _is_number(value) else "a finite number, in the range of float32"
    if not isinstance(value, tuple | list):
        return "a tuple, such as " + repr(default)
    inner = [_type_wanted(item, default[0]) for item in value] if default else []
    return f"a tuple, each of it {words[0]}" if (words := [w for w in inner if w]) else None


def one_of(name: str, value: Any, choices: Iterable[str]) -> None:
    """Raises ValueError, with the most similar choices, if `value` is not one of the choices."""
    if value not in choices:
        hint = near(value, choices)
        raise ValueError(
            f"{name}={shown(value)} is unknown: {hint}use one of {', '.join(choices)}."
        )


def near(value: Any, choices: Iterable[str]) -> str:
    """Returns "did you mean ...? " with the most similar choices, or "" if none is similar."""
    found = difflib.get_close_matches(str(value)[:_MOST_SHOWN], choices)
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
