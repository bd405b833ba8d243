"""The spectrum of SAIB's Jacobian: how much it stretches, and how much it shrinks."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.measures.jacobian import Spectrum
from iecl_jax.evals.pictures import style

SMALLEST = 1e-12  # a singular value below this counts as this one
_BINS = 60


def draw(found: Spectrum, title: str) -> np.ndarray:
    """A weighted histogram over log sigma with sigma = 1 marked, and log|det J| in words.

    Args:
      found: values and weights of Lanczos quadrature, each value standing for the singular values
        around it, or all singular values.
      title: what is shown, for example the step.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: there is nothing to draw, or a value is negative or not finite.
    """
    with style.context():
        return style.picture(figure(found, title))


def _checked(found: Spectrum) -> Spectrum:
    """Both parts as float64, the values at least SMALLEST."""
    sigma, weights = (np.asarray(part, np.float64) for part in found)
    if sigma.shape != weights.shape or not sigma.size:
        raise ValueError(
            f"singular values {list(sigma.shape)} and weights {list(weights.shape)} must have one "
            "shape and be at least one."
        )
    for name, values in (("singular values", sigma), ("weights", weights)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"the {name} of a Jacobian must be finite and at least 0.")
    return Spectrum(np.maximum(sigma, SMALLEST), weights)


def figure(found: Spectrum, title: str) -> Figure:
    """The figure of `draw`, to be made within `style.context`."""
    found = _checked(found)
    sigma, weights = found
    below_one, (log_det, stderr) = jacobian.share_below_one(found), jacobian.log_det(found)
    logs = np.log(sigma)
    share = weights / weights.sum()
    low, high = min(logs.min(), -0.05), max(logs.max(), 0.05)
    margin = 0.04 * (high - low)
    # Bins are counted from sigma = 1, so that none holds values of both sides.
    width = (high - low + 2 * margin) / _BINS
    first, last = np.floor((low - margin) / width), np.ceil((high + margin) / width)
    edges = width * np.arange(first, last + 1)
    counts, _ = np.histogram(logs, edges, weights=share)

    drawn, ((axes,),) = style.subplots(1, 1, width=6.4, height=3.6)
    below = edges[1:] < width / 2
    for side, colour, label in (
        (below, style.RED, rf"$\sigma < 1$: {below_one:.1%} of the singular values"),
        (~below, style.BLUE, rf"$\sigma \geq 1$: {1 - below_one:.1%}"),
    ):
        lefts, rights = np.exp(edges[:-1][side]), np.exp(edges[1:][side])
        axes.bar(lefts, 100 * counts[side], rights - lefts, align="edge", color=colour, label=label)
    axes.set_xscale("log")
    style.reference_line(axes, 1.0, vertical=True)
    _label_ticks(axes.xaxis, np.exp(edges[0]), np.exp(edges[-1]))
    axes.set_xlim(np.exp(edges[0]), np.exp(edges[-1]))
    axes.set(
        xlabel=r"singular value $\sigma$ of SAIB's Jacobian (logarithmic)",
        ylabel="share of singular values (%)",
    )
    error = "" if math.isnan(stderr) else f" ± {stderr:.4f}"
    words = f"log|det J| = {log_det:.4f}{error} nats per dimension"
    drawn.suptitle(f"{title}\n{words}", x=0.01, ha="left", fontsize=10)
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


def _label_ticks(axis, low: float, high: float) -> None:
    """Round values of sigma, 1 among them, as dense as there is room for."""
    ratio = high / low
    if ratio < 3:
        locator = MaxNLocator(7, steps=[1, 2, 5, 10])
        axis.set_major_locator(FixedLocator(locator.tick_values(low, high)))
    else:
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 30 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs if ratio < 1000 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
