"""The results of evaluations in words."""

from collections.abc import Iterable

from iecl_jax.config import kinds

_SHARE = " (%)"


def words(names: Iterable[str] = ()) -> dict[str, str]:
    """{result: words} of all evaluations of this package, and of those named besides."""
    found: dict[str, str] = {}
    for name in (*kinds.names("evaluation"), *names):
        found |= kinds.load("evaluation", name).RESULTS
    return found


def shown(text: str, value: float | None) -> tuple[str, str]:
    """(words, value) of a result as a reader sees them.

    Args:
      text: of RESULTS; at its end "(%)" says that the value is a share.
      value: None is a number that was not finite.
    """
    share = text.endswith(_SHARE)
    if value is None:
        number = "n/a"
    else:
        number = f"{100 * value:.2f} %" if share else f"{value:.4g}"
    return text.removesuffix(_SHARE), number
