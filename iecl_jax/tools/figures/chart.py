"""Draws a line chart as inline SVG without scripts, in the colours of the page around it."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from iecl_jax.evals.pictures import style
from iecl_jax.run.events import Curve

_WIDTH, _HEIGHT = 400, 230
_RIGHT, _TOP, _BOTTOM = 12, 10, 40  # Margins; the left margin depends on the labels.
_MOST_POINTS = 800
_DASHES = ("", "6 3", "6 2 1.5 2", "2 2", "8 2 2 2 2 2", "1 1.5")


class Line(NamedTuple):
    """A curve with its label, and its standard error at the same steps if there is one."""

    label: str
    curve: Curve
    error: np.ndarray | None = None


def figure(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str,
    reference: float | None = None,
    log: bool = False,
    percent: bool = False,
) -> str:
    """Returns an HTML figure: title, chart, and a key with the last value of each line.

    Values that are not finite leave a gap. Long curves are thinned to the extremes of each section.

    Args:
      title: plain text, like `unit` and the labels.
      lines: 1 to `len(style.COLOURS)` lines.
      unit: unit of the vertical axis.
      reference: a value that a line marks and that is always visible.
      log: if True and all values are above 0, the vertical axis is logarithmic.
      percent: if True, shows values in [0, 1] as percent.
    """
    if percent:
        lines = [
            line._replace(curve=Curve(line.curve.steps, 100 * line.curve.values)) for line in lines
        ]
    keys = "".join(
        f'<span class="key">{_swatch(number)}{html.escape(line.label)} '
        f"<b>{number_text(line.curve.values[-1])}{'&#8239;%' if percent else ''}</b></span>"
        for number, line in enumerate(lines)
    )
    return (
        f"<figure><h3>{html.escape(title)}</h3>{_svg(title, lines, unit, reference, log)}"
        f"<figcaption>{keys}</figcaption></figure>"
    )


def number_text(value: float) -> str:
    """Returns a number with about four digits, or "not finite"."""
    if not math.isfinite(value):
        return "not finite"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3e}"
    return f"{value:,.0f}" if abs(value) >= 1e4 or value == int(value) else f"{value:.4g}"


def _swatch(number: int) -> str:
    return (
        f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">'
        f'<path class="c{number}" stroke-dasharray="{_DASHES[number]}" d="M0 4H22"/></svg>'
    )


def _svg(title, lines, unit, reference, log) -> str:
    low, high, log = _range(lines, reference, log)
    ticks = _log_ticks(low, high) if log else _linear_ticks(low, high)
    left = 30 + 6.2 * max((len(text) for _, text in ticks), default=1)
    steps = np.concatenate([line.curve.steps for line in lines])
    last = float(max(steps.max(), 1))
    across = _WIDTH - left - _RIGHT
    down = _HEIGHT - _TOP - _BOTTOM
    bottom = _HEIGHT - _BOTTOM

    def x(step):
        return left + across * np.asarray(step, np.float64) / last

    def y(value):
        place, ends = (np.log(value), np.log((low, high))) if log else (value, (low, high))
        return bottom - down * (np.asarray(place) - ends[0]) / (ends[1] - ends[0])

    parts = [
        f'<path class="grid" d="M{left:.1f} {y(at):.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{left - 6:.1f}" y="{y(at) + 4:.1f}" text-anchor="end">{text}</text>'
        for at, text in ticks
    ]
    parts += [
        f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'
        for at, text in _step_ticks(last)
    ]
    parts.append(f'<path class="axis" d="M{left:.1f} {bottom}H{_WIDTH - _RIGHT}"/>')
    if reference is not None:
        parts.append(
            f'<path class="reference" d="M{left:.1f} {y(reference):.1f}H{_WIDTH - _RIGHT}"/>'
        )
    for number, line in enumerate(lines):
        parts += _draw(line, number, x, y, low)
    middle = (_TOP + bottom) / 2
    parts.append(
        f'<text class="unit" transform="translate(12 {middle}) rotate(-90)" '
        f'text-anchor="middle">{html.escape(unit)}</text>'
        f'<text class="unit" x="{left + across / 2:.1f}" y="{_HEIGHT - 6}" '
        f'text-anchor="middle">optimiser step</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(parts)}</svg>'
    )


def _range(lines, reference, log) -> tuple[float, float, bool]:
    """Returns (low, high, logarithmic) of the vertical axis, with a margin around the values."""
    every = [line.curve.values for line in lines]
    every += [
        line.curve.values + s * line.error
        for line in lines
        if line.error is not None
        for s in (-1, 1)
    ]
    values = np.concatenate(every)
    values = values[np.isfinite(values)]
    if reference is not None:
        values = np.append(values, reference)
    if not values.size:
        return 0.0, 1.0, False
    low, high = float(values.min()), float(values.max())
    if log and low > 0:
        air = max(1.05, (high / low) ** 0.06)
        return low / air, high * air, True
    air = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - air, high + air, False


def _linear_ticks(low: float, high: float) -> list[tuple[float, str]]:
    places = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    gap = places[1] - places[0]
    decimals = max(0, -math.floor(math.log10(gap) + 1e-9))
    scientific = decimals > 5 or max(abs(low), abs(high)) >= 1e6
    return [
        (at, f"{at:.1e}" if scientific else f"{at + 0.0:.{decimals}f}".replace("-", "&minus;"))
        for at in np.where(np.abs(places) < gap / 100, 0.0, places)
        if low <= at <= high
    ]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    ratio = high / low
    if ratio < 8:
        return [tick for tick in _linear_ticks(low, high) if tick[0] > 0]
    subs = (1.0, 2.0, 5.0) if ratio < 300 else (1.0,)
    places = LogLocator(subs=subs, numticks=7).tick_values(low, high)
    return [(at, f"{at:g}") for at in places if low <= at <= high]


def _step_ticks(last: float) -> list[tuple[float, str]]:
    places = MaxNLocator(5, steps=[1, 2, 5, 10], integer=True).tick_values(0, last)
    return [
        (at, f"{at / 1000:g}k" if at >= 10_000 else f"{at:.0f}") for at in places if 0 <= at <= last
    ]


def _draw(line: Line, number: int, x, y, low: float) -> list[str]:
    """Returns the SVG elements of a line: error band, path, and dots if it is short."""
    steps, values = line.curve
    parts = []
    if line.error is not None and np.isfinite(values).all() and np.isfinite(line.error).all():
        upper, lower = y(values + line.error), y(np.maximum(values - line.error, low))
        around = np.concatenate([steps, steps[::-1]]), np.concatenate([upper, lower[::-1]])
        outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x(around[0]), around[1]))
        parts.append(f'<path class="band f{number}" d="M{outline}Z"/>')
    steps, values = _thinned(steps, values)
    finite = np.isfinite(values)
    places = [(f"{a:.1f}", f"{b:.1f}") for a, b in zip(x(steps), y(np.where(finite, values, low)))]
    path, pen = "", "M"
    for (a, b), there in zip(places, finite):
        path += f"{pen}{a} {b}" if there else ""
        pen = "L" if there else "M"
    parts.append(
        f'<path class="c{number}" stroke-dasharray="{_DASHES[number]}" d="{path or "M0 0"}"/>'
    )
    if len(steps) <= style.FEW_POINTS:
        parts += [
            f'<circle class="f{number}" cx="{a}" cy="{b}" r="2.5"/>'
            for (a, b), there in zip(places, finite)
            if there
        ]
    return parts


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most `_MOST_POINTS` points: the lowest and highest of each section, in order."""
    if len(steps) <= _MOST_POINTS:
        return steps, values
    kept = []
    for stretch in np.array_split(np.arange(len(steps)), _MOST_POINTS // 2):
        inside = np.where(np.isfinite(values[stretch]), values[stretch], np.nan)
        if np.isnan(inside).all():
            kept.append(stretch[0])
        else:
            kept += sorted({stretch[np.nanargmin(inside)], stretch[np.nanargmax(inside)]})
    return steps[kept], values[kept]
