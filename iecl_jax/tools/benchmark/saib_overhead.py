"""Measures how much time SAIB adds to each method, in comparison with the PyTorch peer.

    python -m iecl_jax.tools.benchmark.saib_overhead --peer=PATH/torch_peer.py --peer_python=PYTHON

For each method four contestants take turns, one at a time on all cores: ours and the peer's, each
without and with SAIB. Every other round goes backwards. The peer runs in a new process every time,
and its first step is not timed. An overhead compares two times of the same round.

The peer gets the shapes of our config: batch, image size, ResNet and stem, projector, width of the
predictor, queue, SAIB's group and patch, spectral norm and precision. It also augments. Our config
is changed to what the peer has: `peer.MATCHED`, MoCo-v2 in one direction, and no entropy and KL
terms. So the block itself is measured. (`+saib` adds the terms to every method; `--terms` keeps
them; ie_cl always has them.) Two differences remain: the operators of the augmentation, and the
online probe, which only ours trains.
"""

import functools
import shlex
import statistics
import sys

import jax
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.run import markdown
from iecl_jax.tools.benchmark import parts, peer, timing

TITLES = ("without SAIB, ms", "with, ms", "overhead, %")


def load_pair(
    config: str, method: str, overrides: list[str], *, terms: bool
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]:
    """Returns the configs of a method without and with SAIB, matched to the peer.

    Raises:
      ValueError: see `config.load`.
    """
    variants = [f"{config},{method}", f"{config},{method}+saib"]
    changes = [*peer.MATCHED]
    if method == "ie_cl":
        variants[1] = variants[0]
    elif not terms:
        changes += ["--config.objective.kl.weight=0", "--config.objective.entropy.weight=0"]
    if method == "moco_v2":
        changes.append("--config.method.symmetric=False")
    without, with_saib = (config_lib.load(variant, [*changes, *overrides]) for variant in variants)
    without.saib.enabled = False
    return without, with_saib


def overheads(times: list[list[float]]) -> list[list[float]]:
    """Returns SAIB's overhead in percent, [ours, the peer's][round].

    Args:
      times: [ours without, ours with, peer's without, peer's with][round] in ms.
    """
    pairs = (times[:2], times[2:])
    return [[100 * (r - 1) for r in timing.ratios(pair[1], pair[0])] for pair in pairs]


def row(method: str, times: list[list[float]]) -> list[str]:
    """Returns the cells of a row of the table; see `overheads` for `times`."""
    cells = [method]
    for i, found in enumerate(overheads(times)):
        cells += [f"{statistics.median(side):.1f}" for side in times[2 * i : 2 * i + 2]]
        cells.append(timing.spread(timing.extent(found), "{:+.1f}"))
    return cells


def main() -> None:
    """Prints the table and the commands."""
    parser = peer.parser(__doc__, rounds=3, steps=1)
    parser.add_argument("--methods", default=",".join(peer.METHODS), help="comma-separated")
    parser.add_argument("--terms", action="store_true")
    args = parser.parse()
    overrides = [f"--config.train.batch_size={args.batch}", *args.overrides]

    rows, commands, seen = [], [], {}
    for method in args.methods.split(","):
        configs = load_pair(args.config, method, overrides, terms=args.terms)
        command = peer.step_command(args, configs[1], method)
        commands.append(shlex.join(command))

        def time_peer(flag, command=command):
            seen.update(peer.run([*command, flag]))
            return seen["ms_per_step"]

        contestants = [
            functools.partial(timing.median, parts.TimedStep(config).durations, args.steps)
            for config in configs
        ]
        contestants += [functools.partial(time_peer, flag) for flag in ("--no-saib", "--saib")]
        rows.append(row(method, timing.alternate(contestants, args.rounds)))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
        jax.clear_caches()

    titles = [f"{who}: {title}" for who in ("ours", "peer") for title in TITLES]
    print(markdown.table(["method", *titles], rows))
    print(f"{peer.describe(seen)}")
    print("\n".join(commands))


if __name__ == "__main__":
    main()
