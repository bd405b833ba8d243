"""Draws the training losses of several runs, such as with and without SAIB (Fig. 4).

    python -m iecl_jax.tools.figures.loss_curves --runs=RUN_A,RUN_B [--labels="with,without"]

It reads the event files in the workdirs of the runs.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from iecl_jax.config import own_files, paths
from iecl_jax.evals.pictures import style
from iecl_jax.run import events
from iecl_jax.tools import arguments

# Totals of runs with different terms or weights are not comparable, so both are shown.
PANELS = (
    ("train/method_loss", "The method's own loss", "loss"),
    ("train/loss", "All terms", "total loss"),
)


def draw(runs: Mapping[str, events.Events]) -> Figure:
    """Draws the method's own loss (IE-CL: InfoNCE) on the left, all terms of Eq. 17 on the right.

    Args:
      runs: the events of each run, by label; at least one.

    Raises:
      ValueError: a run lacks one of the curves.
    """
    with style.context():
        figure, (row,) = style.subplots(1, 2, width=8.4, height=3.4)
        for axes, (tag, title, unit) in zip(row, PANELS, strict=True):
            for number, (label, run) in enumerate(runs.items()):
                if tag not in run.scalars:
                    raise ValueError(f"{label} has no {tag}: it is not a pretraining run.")
                curve = run.scalars[tag]
                style.plot(axes, curve, number, f"{label}: {curve.values[-1]:.3f} at the end")
            axes.set(title=title, xlabel="optimiser step", ylabel=unit)
            axes.legend()
    return figure


def default_labels(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """Returns a label for each run: its SAIB setting, plus its folder where that is ambiguous."""
    labels = [_label(workdir) for workdir in workdirs]
    return [
        f"{label} ({workdir.name})" if labels.count(label) > 1 else label
        for label, workdir in zip(labels, workdirs, strict=True)
    ]


def _label(workdir: pathlib.Path) -> str:
    try:
        saib = json.loads((workdir / "config.json").read_text())["saib"]
        if not saib["enabled"]:
            return "without SAIB"
    except (OSError, ValueError, KeyError, TypeError):
        return workdir.name
    variant = saib.get("variant", "paper")
    return "with SAIB" if variant == "paper" else f"with SAIB, {variant}"


def main(words: Sequence[str] | None = None) -> None:
    """Draws the figure of the runs that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("--runs", required=True, help="comma-separated workdirs")
    parser.add_argument(
        "--labels", default="", help="comma-separated, one per run; default: by its config"
    )
    parser.add_argument(
        "--out",
        type=arguments.new_file,
        help="PNG, SVG or PDF; default: figures/loss_curves-runs=OTHERS.png of the first",
    )
    args = parser.parse(words)
    with own_files.sentences():
        workdirs = [paths.local("--runs", name) for name in args.runs.split(",") if name]
        labels = args.labels.split(",") if args.labels else default_labels(workdirs)
        if len(labels) != len(workdirs) or len(set(labels)) < len(labels):
            raise ValueError(
                f"--labels={args.labels!r} must be {len(workdirs)} different names, one a run."
            )
        others = {"runs": ",".join(map(str, workdirs[1:]))} if workdirs[1:] else {}
        path = args.out or arguments.picture(workdirs[0], "loss_curves", others)
        style.check_path(path)
        runs = {label: events.read(workdir) for label, workdir in zip(labels, workdirs)}
        style.save(draw(runs), path)
    print(path)


if __name__ == "__main__":
    main()
