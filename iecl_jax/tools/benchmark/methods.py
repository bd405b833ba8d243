"""Compares the methods: loss, parameters, FLOPs an image, and step time beside MoCo-v2's.

    python -m iecl_jax.tools.benchmark.methods [--config=FILE:VARIANT] [--methods=byol,simclr]

METHOD in the config stands for each method in turn. By default these are all the methods of
configs/methods.py, at a size for two CPU cores. The steps take turns in one process, as in
`python -m iecl_jax.tools.benchmark`. A ratio is the time of a step divided by that of MoCo-v2 in
the same round; the table has the median and the range over the rounds.

The loss is that in the docstring of the method's file. Parameters are those that the optimizer
trains, without the online probe. FLOPs are those of products and convolutions in a whole training
step, with gradients and momentum networks. What a method does before an epoch is not in the step.
"""

import argparse
import functools
import inspect
import re
import statistics
from collections.abc import Sequence

import jax

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.config import files, kinds, naming, own_files
from iecl_jax.run import command_line, markdown, runtime
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import parts, program, report, timing

RECIPES = "configs/methods.py"
FIRST = "moco_v2"
DEFAULT = "configs/resnet18.py:cifar10,METHOD,small"
TITLES = ["method", "loss", "parameters, M", "GFLOP an image", "ms a step", f"ratio to {FIRST}"]


def loss(name: str) -> str:
    """Returns the formula in the docstring of a method's file; its first line if it has none."""
    text = inspect.getdoc(kinds.load("method", name)) or ""
    formula = re.search(r"\n\n +loss = (.+(?:\n.+)*)", text)
    return " ".join(formula[1].split()) if formula else text.partition("\n")[0]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process. In `methods`, a list, FIRST is first."""
    names = files.run(RECIPES)["NAMES"]
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", default=DEFAULT, help="FILE:VARIANT with the word METHOD")
    parser.add_argument("--methods", default=",".join(names), help="comma-separated")
    timing.add_flags(parser, rounds=5, steps=3)
    args = parser.parse(argv)
    if "METHOD" not in args.config:
        parser.error(f"--config={args.config} has no METHOD: write {DEFAULT}.")
    if args.rounds < 1 or args.steps < 1:
        parser.error(f"--rounds={args.rounds} and --steps={args.steps} must be at least 1.")
    args.methods = [name for name in dict.fromkeys([FIRST, *args.methods.split(",")]) if name]
    return args


def row(
    name: str, step: parts.TimedStep, times: Sequence[float], first: Sequence[float]
) -> list[str]:
    """Returns the cells of a method.

    Args:
      name: METHOD of configs/methods.py, with or without additions.
      step: its step, which was timed.
      times: the median milliseconds of each round.
      first: those of FIRST.
    """
    networks = {key: value for key, value in step.state.params.items() if key != "online_probe"}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(networks))
    images = step.config.train.batch_size // jax.device_count()
    flops = program.arithmetic(*program.lower(step.prepared), images)["product_flops_per_image"]
    formula = loss(step.config.method.name)
    weights = step.config.objective
    if weights.kl.weight or weights.entropy.weight:
        formula += ", + beta KL - lambda H"
    return [
        f"{naming.trained(step.config)} (`{name}`)",
        f"`{formula}`",
        f"{parameters / 1e6:.2f}",
        f"{flops / 1e9:.4f}",
        f"{statistics.median(times):.1f}",
        timing.spread(timing.extent(timing.ratios(times, first)), "{:.2f}"),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    args = parse(argv)
    runtime.configure()
    with own_files.sentences():
        named = [args.config.replace("METHOD", name) for name in args.methods]
        configs = [config_lib.load(name, args.overrides) for name in named]
        with console.waiting("Compiling the training steps"):
            steps = [parts.TimedStep(config) for config in configs]
    contestants = [functools.partial(timing.median, s.durations, args.steps) for s in steps]
    times = timing.alternate(contestants, args.rounds, what="Measuring the step")
    each = zip(args.methods, steps, times, strict=True)
    print(markdown.table(TITLES, [row(*found, times[0]) for found in each], text=2))
    about = report.describe(configs[0], named[0], args.overrides, "")
    print(f"{about['device']}; {about['versions']}; batch {about['batch_size']}")
    print(command_line.shown(command_line.typed()))


if __name__ == "__main__":
    main()
