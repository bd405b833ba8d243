"""Draws the singular values of SAIB's Jacobian: how much SAIB stretches and shrinks."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.measures.jacobian import Spectrum
from iecl_jax.evals.pictures import style

SMALLEST = 1e-12  # Smaller singular values are drawn as this one, since the axis is logarithmic.
_BINS = 60


def draw(found: Spectrum, title: str, log_det: tuple[float, float] | None = None) -> np.ndarray:
    """Draws a weighted histogram over log sigma, with sigma = 1 marked and log|det J| as text.

    Args:
      found: all singular values; or nodes and weights of Lanczos quadrature, where each node stands
        for the singular values around it.
      title: the title, for example with the step.
      log_det: log|det J| and its standard error; None = those of `jacobian.log_det`, for which all
        probes are of one Jacobian.

    Returns:
      uint8 [height, width, 3].

    Raises:
      ValueError: there are no values, or a value is negative or not finite.
    """
    with style.context():
        return style.picture(figure(found, title, log_det))


def _checked(found: Spectrum) -> Spectrum:
    """Returns values (at least SMALLEST) and weights as float64; raises ValueError, see `draw`."""
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


def figure(found: Spectrum, title: str, log_det: tuple[float, float] | None = None) -> Figure:
    """Returns the figure of `draw`. Call it within `style.context`."""
    found = _checked(found)
    sigma, weights = found
    below_one = jacobian.share_below_one(found)
    value, stderr = jacobian.log_det(found) if log_det is None else log_det
    logs = np.log(sigma)
    share = weights / weights.sum()
    low, high = min(logs.min(), -0.05), max(logs.max(), 0.05)
    margin = 0.04 * (high - low)
    # sigma = 1 is an edge, so that no bin mixes values below and above it.
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
    words = f"log|det J| = {value:.4f}{error} nats per dimension"
    drawn.suptitle(f"{title}\n{words}", x=0.01, ha="left", fontsize=10)
    drawn.legend(loc="outside lower center", ncols=2)
    return drawn


def _label_ticks(axis, low: float, high: float) -> None:
    """Puts ticks at round values of sigma, as many as fit."""
    ratio = high / low
    if ratio < 3:
        locator = MaxNLocator(7, steps=[1, 2, 5, 10])
        axis.set_major_locator(FixedLocator(locator.tick_values(low, high)))
    else:
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if ratio < 30 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=subs if ratio < 1000 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
