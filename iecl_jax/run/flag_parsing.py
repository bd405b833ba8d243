"""Parses the flags of `iecl_jax.main`, with a sentence for each mistake.

absl parses them. It cannot parse `--config`: which `--config.KEY` exist depends on its value.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from absl import flags

from iecl_jax.config import shipped

WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def take(name: str, arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Splits arguments into (the value of the flag `name`, the others); None if it is not given.

    Raises:
      ValueError: the flag has no value, or two different ones.
    """
    values, others = [], []
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if flag not in (f"--{name}", f"-{name}"):
            others.append(word)
            continue
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("-") else ""
        if not value:
            raise ValueError(f"--{name} has no value: write --{name}=VALUE.")
        values.append(value)
    if len(set(values)) > 1:
        raise ValueError(f"--{name} is given twice, as {values[0]} and {values[1]}: take one out.")
    return (values[0] if values else None), others


def without_config(arguments: Sequence[str]) -> ValueError:
    """Returns the error for a command that names no config, or names one without the flag."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        is_value = before.startswith("-") and "=" not in before
        meant = [] if word.startswith("-") or is_value else shipped.alike(word)
        if meant:
            hint = " or ".join(f"--config={each}" for each in meant)
            return ValueError(f"{word} is no flag: did you mean {hint}?")
    return ValueError("name a config, for example --config=configs/quickstart.py.")


def parse_flags(arguments: Sequence[str], keys: Iterable[str]) -> None:
    """Parses the arguments into `absl.flags.FLAGS`.

    Args:
      arguments: all arguments but --config and the overrides.
      keys: the dotted names of the config, for the message about a flag that should be an override.

    Raises:
      ValueError: a flag is unknown, or its value does not fit.
    """
    for word in arguments:
        name, equals, _ = word.lstrip("-").partition("=")
        if word.startswith("-") and equals:
            take(name, [each for each in arguments if "=" in each])
    try:
        rest = flags.FLAGS(["iecl_jax.main", *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        raise ValueError(_unknown(error.flagname, arguments, list(keys))) from error
    except flags.Error as error:
        raise ValueError(_misfit(str(error))) from error
    if rest:
        name, equals, _ = rest[0].partition("=")
        if equals:
            raise ValueError(_unknown(name.removeprefix("config."), rest, list(keys)))
        raise ValueError(f"argument {rest[0]!r} is not a flag: flags look like --config=FILE.")


def help_text(text: str, module: str) -> str:
    """Returns the help of a command: its text, and the flags that its module defines."""
    lines = [text.strip(), "", "Flags:"]
    for flag in flags.FLAGS.get_flags_for_module(module):
        value = "" if flag.boolean else "=" + flag.name.rpartition("_")[2].upper()
        default = "" if flag.default in (None, False) else f" (default {flag.default})"
        lines.append(f"  --{flag.name}{value}\n      {flag.help}{default}")
    return "\n".join(lines)


def _unknown(name: str, arguments: Sequence[str], keys: list[str]) -> str:
    given = next((each for each in arguments if name in each.partition("=")[0]), f"--{name}")
    value = given.partition("=")[2]
    last = [key for key in keys if key == name or key.endswith(f".{name}")]
    if last:
        shown = " or ".join(f"--config.{key}={value or 'VALUE'}" for key in last[:3])
        return f"{given} is no flag but a setting: write {shown}."
    near = difflib.get_close_matches(name, [*flags.FLAGS, "config", *(f"config.{k}" for k in keys)])
    hint = f"did you mean {' or '.join(f'--{each}' for each in near)}?" if near else "see --help."
    return f"{given} is no flag: {hint}"


def _misfit(text: str) -> str:
    """Returns our words for absl's about a value that does not fit."""
    found = re.match(r"flag --(\w+)=(.*?): ", text, re.DOTALL)
    if not found:
        return text.rstrip(".") + "."
    flag = flags.FLAGS[found[1]]
    choices = getattr(flag.parser, "enum_values", None)
    wanted = f"one of {', '.join(choices)}" if choices else WANTED.get(flag.flag_type(), "another")
    return f"--{found[1]}={found[2]} must be {wanted}."
