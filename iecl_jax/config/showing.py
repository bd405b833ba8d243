"""Formats a config for `--print_config`: every key with its value and its meaning."""

from collections.abc import Collection

import ml_collections

from iecl_jax.config import schema, section

_CHANGED, _VALUE_WIDTH = "*", 24


def show(config: ml_collections.ConfigDict, changed: Collection[str]) -> str:
    """Returns one line per key: its dotted name, value and text, and a star if it was changed.

    Args:
      config: a complete config.
      changed: the dotted names of the keys that the command set.
    """
    values = section.leaves(config)
    known = schema.keys(config)
    width = max(len(name) for name in known)
    lines = [f"{_CHANGED} = changed by this command"]
    previous = ""
    for name, key in known.items():
        part = name.partition(".")[0]
        if part != previous and "." in name:
            lines.append("")
        previous = part
        mark = _CHANGED if name in changed else " "
        choices = f" ({' | '.join(key.rule)})" if isinstance(key.rule, tuple) else ""
        value = f"{values[name]!r}"
        lines.append(f"{mark} {name:<{width}}  {value:<{_VALUE_WIDTH}}  {key.text}{choices}")
    return "\n".join(line.rstrip() for line in lines)
