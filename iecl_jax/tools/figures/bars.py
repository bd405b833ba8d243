"""Draws measured times as bars: of an epoch (Fig. 7), and of a step with and without SAIB (Fig. 8).

Lines on the bars show the range over the rounds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from iecl_jax.evals.pictures import style

_RANGE: Any = {"ecolor": style.INK, "elinewidth": 1, "capsize": 2}


def draw_times(times: np.ndarray, *, labels: Sequence[str], title: str, unit: str) -> Figure:
    """Draws a horizontal bar for each label, the first on top, with its number.

    Args:
      times: float [N, 3]: median, lowest, highest; a row of NaN has no bar.
      labels: N names.
      title: title of the figure.
      unit: unit of the times.

    Raises:
      ValueError: `times` is not [N, 3].
    """
    _check(times, labels)
    places = np.arange(len(labels))
    with style.context():
        figure, ((axes,),) = style.subplots(1, 1, width=6.4, height=0.9 + 0.32 * len(labels))
        middle = times[:, 0]
        axes.barh(
            places,
            middle,
            0.66,
            xerr=_errors(times),
            color=style.BLUE,
            error_kw=_RANGE,
        )
        for place, (value, _, high) in enumerate(times):
            if np.isfinite(value):
                _note(axes, (high, place), f"{value:,.3g}", (5, 0), va="center")
        axes.set_yticks(places, labels)
        axes.set(ylim=(len(labels) - 0.5, -0.5), title=title, xlabel=unit)
        axes.set_xlim(0, 1.14 * _highest(times))
        axes.grid(visible=False, axis="y")
    return figure


def draw_pairs(
    without: np.ndarray,
    with_saib: np.ndarray,
    *,
    labels: Sequence[str],
    notes: Sequence[str],
    title: str,
    unit: str,
) -> Figure:
    """Draws two bars for each label, without and with SAIB, and a note above them.

    Args:
      without, with_saib: float [N, 3]: median, lowest, highest; a row of NaN has no bar.
      labels: N names.
      notes: N notes, such as "+8.8 %".
      title: title of the figure.
      unit: unit of the times.

    Raises:
      ValueError: the times are not [N, 3].
    """
    _check(without, labels)
    _check(with_saib, labels)
    places = np.arange(len(labels))
    with style.context():
        figure, ((axes,),) = style.subplots(1, 1, width=1.4 + 0.85 * len(labels), height=3.6)
        for side, times, colour, label in (
            (-0.2, without, style.SKY, "without SAIB"),
            (0.2, with_saib, style.BLUE, "with SAIB"),
        ):
            axes.bar(
                places + side,
                times[:, 0],
                0.38,
                yerr=_errors(times),
                color=colour,
                label=label,
                error_kw=_RANGE,
            )
        for place, note in enumerate(notes):
            both = np.concatenate([without[place], with_saib[place]])
            if np.isfinite(both).all():
                _note(axes, (place, both.max()), note, (0, 4), ha="center", va="bottom")
        axes.set_xticks(places, labels)
        axes.set(title=title, ylabel=unit)
        axes.set_ylim(0, 1.12 * _highest(np.concatenate([without, with_saib])))
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _check(times: np.ndarray, labels: Sequence[str]) -> None:
    if times.shape != (len(labels), 3):
        raise ValueError(
            f"times {list(times.shape)} must be [{len(labels)}, 3]: median, lowest and highest of "
            "each label."
        )


def _errors(times: np.ndarray) -> np.ndarray:
    """Returns the distances [2, N] from the median to the lowest and to the highest time."""
    middle, low, high = times.T
    return np.stack([middle - low, high - middle])


def _highest(times: np.ndarray) -> float:
    known = times[np.isfinite(times)]
    return float(known.max()) if known.size else 1.0


def _note(axes: Axes, at: tuple[float, float], text: str, offset: tuple[int, int], **align: Any):
    axes.annotate(
        text, at, xytext=offset, textcoords="offset points", fontsize=8.5, color=style.INK, **align
    )
