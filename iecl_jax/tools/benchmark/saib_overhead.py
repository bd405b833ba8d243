"""What SAIB costs each method, side by side with the PyTorch peer `torch_peer.py`.

    python -m iecl_jax.tools.benchmark.saib_overhead --peer=PATH/torch_peer.py --peer_python=PYTHON

For each method four contestants take turns, one at a time on all cores: ours and the peer's, each
without and with SAIB; every other round goes backwards. The peer is a new process every time,
whose first step is not timed. An overhead is that of two times of the same round.

The peer is told the shapes of our config: batch, image size, ResNet and stem, projector, predictor
width, queue, SAIB's group and patch, spectral norm and precision; and it augments too. Ours is made
to have what the peer has: MATCHED, MoCo-v2 in one direction, and no entropy and KL terms but in
ie_cl (`+saib` adds them to every method), so that what is measured is the block. `--terms` keeps
them. Not matched: the operators of the augmentation, and the online probe, which is ours alone.
"""

import argparse
import functools
import json
import os
import shlex
import statistics
import subprocess
import sys

import jax
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax.run import workdir
from iecl_jax.tools.benchmark import parts, timing

PEER_METHODS = {
    "ie_cl": "iecl",
    "moco_v2": "moco",
    "simclr": "simclr",
    "byol": "byol",
    "simsiam": "simsiam",
}
MATCHED = (
    "--config.projector.num_layers=3",
    "--config.projector.hidden_dim=4096",
    "--config.projector.output_dim=512",
    "--config.projector.hidden_bn=True",
    "--config.projector.output_bn=True",
    "--config.optimizer.name=sgd",
)
AMP = {"float32": "none", "bfloat16": "bf16", "float16": "fp16"}
TITLES = ("without SAIB, ms", "with, ms", "overhead, %")


def load_pair(
    config: str, method: str, overrides: list[str], *, terms: bool
) -> tuple[ml_collections.ConfigDict, ml_collections.ConfigDict]:
    """The configs of a method without and with SAIB, as the peer has it; ValueError as `load`."""
    variants = [f"{config},{method}", f"{config},{method}+saib"]
    changes = [*MATCHED]
    if method == "ie_cl":
        variants[1] = variants[0]
    elif not terms:
        changes += ["--config.objective.kl.weight=0", "--config.objective.entropy.weight=0"]
    if method == "moco_v2":
        changes.append("--config.method.symmetric=False")
    without, with_saib = (config_lib.load(variant, [*changes, *overrides]) for variant in variants)
    without.saib.enabled = False
    return without, with_saib


def peer_flags(config: ml_collections.ConfigDict, method: str) -> list[str]:
    """The peer's flags for the shapes of a config with SAIB."""
    flags = [
        f"--method={PEER_METHODS[method]}",
        f"--arch={config.encoder.name.replace('resnet', 'r')}",
        f"--stem={config.encoder.stem}",
        f"--batch={config.train.batch_size}",
        f"--size={config.data.image_size}",
        f"--hidden={config.projector.hidden_dim}",
        f"--out={config.projector.output_dim}",
        f"--group={config.saib.group_size}",
        f"--patch={config.saib.patch_size}",
        f"--amp={AMP[config.train.precision]}",
        f"--{'' if config.encoder.spectral_norm else 'no-'}sn",
        f"--device={'cpu' if jax.default_backend() == 'cpu' else 'cuda'}",
        f"--threads={len(os.sched_getaffinity(0))}",
        "--aug",
    ]
    if method == "moco_v2":
        flags.append(f"--queue={config.method.queue_size}")
    if "predictor" in config.method:
        flags.append(f"--pred-hidden={config.method.predictor.hidden_dim}")
    return flags


def run_peer(command: list[str]) -> dict:
    """What the peer prints; its last line of stderr is the error if it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: {shlex.join(command)}: {(result.stderr.splitlines() or ['failed'])[-1]}")
    return json.loads(result.stdout)


def median_step(step: parts.TimedStep, steps: int) -> float:
    """Milliseconds, as the peer gives them."""
    return statistics.median(step.durations(steps))


def row(method: str, times: list[list[float]]) -> str:
    """A line of the table; `times` are [ours without, with, peer's without, with][round], ms."""
    cells = [method]
    for without, with_saib in (times[:2], times[2:]):
        overheads = [100 * (ratio - 1) for ratio in timing.ratios(with_saib, without)]
        cells += [f"{statistics.median(side):.1f}" for side in (without, with_saib)]
        cells.append(timing.spread(timing.extent(overheads), "{:+.1f}"))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table and what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/resnet18.py:cifar10")
    parser.add_argument("--methods", default=",".join(PEER_METHODS), help="comma-separated")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--terms", action="store_true")
    parser.add_argument("--peer", required=True, help="path of torch_peer.py")
    parser.add_argument("--peer_python", default="python", help="a Python that has PyTorch")
    parser.add_argument("--peer_flags", default="", help="override the peer's flags")
    parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE for ours, after --")
    args = parser.parse_args()
    overrides = [f"--config.train.batch_size={args.batch}", *args.overrides]

    rows, commands, seen = [], [], {}
    for method in args.methods.split(","):
        configs = load_pair(args.config, method, overrides, terms=args.terms)
        command = [args.peer_python, args.peer, *peer_flags(configs[1], method)]
        command += [f"--steps={args.steps}", "--warmup=1", *shlex.split(args.peer_flags)]
        commands.append(shlex.join(command))
        ours = [parts.TimedStep(config) for config in configs]

        def time_peer(flag, command=command):
            seen.update(run_peer([*command, flag]))
            return seen["ms_per_step"]

        contestants = [functools.partial(median_step, step, args.steps) for step in ours]
        contestants += [functools.partial(time_peer, flag) for flag in ("--no-saib", "--saib")]
        rows.append(row(method, timing.alternate(contestants, args.rounds)))
        print(rows[-1], file=sys.stderr, flush=True)
        jax.clear_caches()

    print(f"| method | {' | '.join(f'{who}: {t}' for who in ('ours', 'peer') for t in TITLES)} |")
    print(f"|---|{'---:|' * 2 * len(TITLES)}")
    print("\n".join(rows))
    print(f"\nours: {workdir.device_description()}, jax {jax.__version__}")
    print(f"peer: {seen['device']}, torch {seen['torch']}")
    print(shlex.join(["python", *sys.argv]))
    print("\n".join(commands))


if __name__ == "__main__":
    main()
