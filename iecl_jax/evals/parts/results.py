"""Describes the results of evaluations for a reader."""

from collections.abc import Iterable, Mapping
from typing import Any

from iecl_jax.config import kinds, own_files

_SHARE = " (%)"


def words(names: Iterable[str] = ()) -> dict[str, str]:
    """Returns {result: description} of all evaluations of this package and of those in `names`.

    Of a file in `names` that the command neither names nor trusts, the results have no description.
    """
    found: dict[str, str] = {}
    trusted = [name for name in names if not own_files.is_foreign(name)]
    for name in (*kinds.names("evaluation"), *trusted):
        found |= kinds.load("evaluation", name).RESULTS
    return found


def shown(text: str, value: float | None) -> tuple[str, str]:
    """Returns (description, formatted value) of a result.

    Args:
      text: the description in RESULTS; if it ends in "(%)", the value is a share from 0 to 1.
      value: the result; None stands for a number that was not finite.
    """
    share = text.endswith(_SHARE)
    if value is None:
        number = "n/a"
    else:
        number = f"{100 * value:.2f} %" if share else f"{value:.4g}"
    return text.removesuffix(_SHARE), number


def told(words: Mapping[str, str], found: Mapping[str, Any]) -> list[str]:
    """Returns "DESCRIPTION VALUE" of each result in `found` that `words` describes."""
    return [" ".join(shown(text, found[name])) for name, text in words.items() if name in found]
