"""Values for a setting, made from nothing but its declaration: legal ones and illegal ones.

A setting that is declared tomorrow gets its values here without a change, so the sweep
(`test_settings_sweep.py`) and the campaign (`test_settings_campaign.py`) take it too.
"""

import math
from collections.abc import Iterator
from typing import Any

from iecl_jax.config import kinds
from iecl_jax.config.rules import check_value
from iecl_jax.config.section import Key

SIZES = (1, 2, 4, 8, 16, 32, 3, 64)
NUMBERS = (0.1, 0.5, 1.0, 2.0, 0.01, 0.9, 10.0)


def others(name: str, key: Key, value: Any) -> list[Any]:
    """The legal values that a trial may take instead of `value`, the likeliest to fit first."""
    legal = []
    for candidate in _candidates(name, key, value):
        if candidate == value or candidate in legal:
            continue
        try:
            check_value(name, candidate, key.default, key.rule)
        except ValueError:
            continue
        legal.append(candidate)
    return legal


def is_choice(key: Key) -> bool:
    """Whether every legal value is a choice of its own, so that each of them is tried."""
    return isinstance(key.rule, tuple) or isinstance(key.default, bool)


def is_off(value: Any) -> bool:
    """Whether a value usually switches something off, which hides what other settings do."""
    return isinstance(value, bool | int | float) and not value


def text(value: Any) -> str:
    """The value as the command line has it."""
    return value if isinstance(value, str) else repr(value)


def _candidates(name: str, key: Key, value: Any) -> Iterator[Any]:
    """Values of the right type, legal or not; those near `value` come first."""
    if isinstance(key.rule, tuple):
        yield from key.rule
    elif isinstance(key.default, bool):
        yield not value
    elif isinstance(key.default, int):
        yield from (2 * value, value // 2, *SIZES, 0)
    elif isinstance(key.default, float):
        yield from (value / 2, 2 * value, *NUMBERS, 0.0)
    elif isinstance(key.default, str):
        yield from _names(name)
    else:
        yield from _tuples(name, key, tuple(value))


def _names(name: str) -> Iterator[str]:
    """The names that a key of text may hold: those of the files that it chooses from."""
    kind = "evaluation" if name == "job" else name.rpartition(".")[0].rpartition(".")[2]
    if kind in kinds.KINDS and name.endswith((".name", "job")):
        yield from kinds.names(kind)


def _tuples(name: str, key: Key, value: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Tuples made from the value: without its last, turned, scaled, and three shares."""
    yield value[:-1]
    yield (*value[1:], *value[:1])
    numbers = [item for item in value if isinstance(item, int | float)]
    if numbers and len(numbers) == len(value):
        yield tuple(0.9 * item for item in value)
        yield tuple(1.1 * item for item in value)
    yield (0.4, 0.5, 0.6)


# Texts that no key takes, or only some: for whatever type a key has, most of these are mistakes.
STRANGE = (
    "",
    " ",
    "None",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    "1e-320",
    "1e9999",
    "True",
    "false",
    "-1",
    "0",
    "1.5",
    "-0.0",
    "1_000",
    "0x10",
    "1e3",
    "9" * 20,
    "-" + "9" * 20,
    "9" * 400,
    "9" * 5000,
    "None,None",
    "()",
    "(1)",
    "(1,)",
    "(1, 2)",
    "(0.5, 0.2)",
    "(-1.0,)",
    "(nan, 1.0)",
    "(inf, inf)",
    "('a', 'b')",
    "('a',)",
    "('crop', 'crop')",
    "('crop',)",
    "('anchor', 'anchor')",
    "('anchor', 'query', 'third')",
    "(None, None)",
    "((1, 2), (3, 4))",
    "((0.1, 0.2),)",
    "(True, False)",
    "[1, 2]",
    "{'a': 1}",
    "{}",
    "('',)",
    "('',''  )",
    "(" * 300,
    "(" * 300 + ")" * 300,
    "-" * 20_000 + "1",
    "x" * 300,
    "x" * 10_000,
    "x" * 10_000 + ".py",
    "ü",
    "日本語",
    "\n",
    "a\nb",
    "a\0b",
    "a\0b.py",
    "\u202e.py",
    "\ud800",
    ".",
    "..",
    "/",
    ".py",
    "~",
    "~nobody/x.py",
    "tests",
    "/dev/null",
    "/dev/null.py",
    "$HOME",
    "%s%n",
    "__class__",
    "operators",
    "size",
    "anchor",
    "'quoted'",
    '"',
    "=",
    "--config.seed=1",
    "lambda: 1",
    "__import__('os')",
    "b'x'",
    "1j",
)
# Values that a config file can hold and a command cannot.
FOREIGN = (
    None,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    5e-324,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**20,
    10**5000,
    -(10**20),
    True,
    False,
    1.0,
    0.5,
    1j,
    "",
    "x",
    "\n",
    "\0",
    "\ud800",
    "x" * 10_000,
    b"x",
    (),
    (1,),
    (1.0, 2.0),
    (2.0, 1.0),
    (math.nan, 1.0),
    (0.0, math.inf),
    (-1.0,),
    ("a", "b"),
    ("",),
    (None,),
    (True, False),
    ((1, 2), 3),
    ((),),
    ("crop", "crop"),
    ("anchor",),
    [1, 2],
    ["crop"],
    {1, 2},
    {"a": 1},
    {},
    object(),
    len,
    int,
    (10**5000,),
    tuple(range(5000)),
    ("x" * 10_000,),
)
