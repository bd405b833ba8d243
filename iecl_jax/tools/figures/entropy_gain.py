"""Draws what SAIB adds to the entropy of input and embedding, beside InfoNCE (Fig. 5).

    python -m iecl_jax.tools.figures.entropy_gain --workdir=RUN

It reads the event files of a run with `diagnostics.every_steps` above 0.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from iecl_jax.config import own_files
from iecl_jax.evals.pictures import style
from iecl_jax.run import events
from iecl_jax.tools import arguments

GAIN, INFO_NCE = "diagnostics/entropy_gain", "train/info_nce"
LOG_DET, LOG_DET_ERROR = "diagnostics/log_det", "diagnostics/log_det_stderr"


def draw(run: events.Events) -> Figure:
    """Draws two panels over the steps of a run.

    The upper panel shows the entropy of the query's embeddings with SAIB minus that without SAIB,
    and InfoNCE on the right axis. The lower panel shows log|det J| of SAIB on the query view, which
    is the change of entropy at the input (Eq. 12), with a band of its standard error. Entropies are
    in nats per dimension.

    Raises:
      ValueError: one of the curves is missing.
    """
    for tag in (GAIN, INFO_NCE, LOG_DET):
        if tag not in run.scalars:
            raise ValueError(
                f"the run has no {tag}: train with --config.saib.enabled=True and "
                "--config.diagnostics.every_steps=100."
            )
    with style.context():
        figure, ((above,), (below,)) = style.subplots(2, 1, width=6.4, height=5.6, sharex=True)
        _draw_gain(above, run)
        style.plot(below, run.scalars[LOG_DET], 2, "log|det J| of SAIB")
        band(below, run, style.GREEN)
        style.reference_line(below, 0.0)
        below.set(
            title="At the input",
            xlabel="optimiser step",
            ylabel="log|det J|\n(nats per dimension)",
        )
    return figure


def _draw_gain(axes, run: events.Events) -> None:
    style.plot(axes, run.scalars[GAIN], 0)
    style.reference_line(axes, 0.0)
    axes.set_title("In the embedding, and the loss")
    axes.set_ylabel("ΔH of the query's embeddings\n(nats per dimension)", color=style.BLUE)
    right = axes.twinx()
    style.plot(right, run.scalars[INFO_NCE], 1)
    right.set_ylabel("InfoNCE (nats)", color=style.RED)
    right.grid(visible=False)


def band(axes, run: events.Events, colour: str) -> None:
    """Shades one standard error above and below log|det J|, where it was measured."""
    if LOG_DET_ERROR not in run.scalars:
        return
    middle, error = run.scalars[LOG_DET], run.scalars[LOG_DET_ERROR]
    steps, at, of = np.intersect1d(middle.steps, error.steps, return_indices=True)
    low, high = (middle.values[at] + sign * error.values[of] for sign in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)


def main(words: Sequence[str] | None = None) -> None:
    """Draws the figure of the run that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("--workdir", required=True, type=arguments.folder)
    parser.add_argument(
        "--out",
        type=arguments.new_file,
        help="PNG, SVG or PDF; default: WORKDIR/figures/entropy_gain.png",
    )
    args = parser.parse(words)
    path = args.out or arguments.picture(args.workdir, "entropy_gain", {})
    with own_files.sentences():
        style.check_path(path)
        style.save(draw(events.read(args.workdir)), path)
    print(path)


if __name__ == "__main__":
    main()
