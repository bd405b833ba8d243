"""IE-CL's step, its augmentation and SAIB alone, side by side with the PyTorch peer.

    python -m iecl_jax.tools.benchmark.peer_speed --peer=PATH/torch_peer.py --peer_python=PYTHON

Contestants take turns, one at a time on all cores, every other round backwards: ours, and the
peer's eager and compiled (`--compile`) form, each time a new process whose first call is not timed.
A ratio is ours by the peer's of the same round: below 1, ours is faster.

  step     both augment; the same ResNet, projector, SAIB, spectral norm, losses and precision. Ours
           has the online probe besides.
  augment  both views of a batch. The operators differ: ours are torchvision's (antialiased crop,
           jitter in random order, hue in HSV), the peer's cheaper relatives, see its README.
  saib     one forward and backward pass, to the parameters and the images.
"""

import argparse
import functools
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax.models import build
from iecl_jax.run import runtime, workdir
from iecl_jax.tools.benchmark import parts, saib_overhead, timing

PEERS = {"eager": [], "compiled": ["--compile"]}


class TimedSAIB:
    """SAIB's forward and backward pass on one device, to its parameters and its images."""

    def __init__(self, config: ml_collections.ConfigDict):
        size = config.data.image_size
        shape = (config.train.batch_size, size, size, 3)
        images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        block = build.saib(config)
        variables = block.init(jax.random.key(0), images, train=False)

        def loss(params, images):
            changed, state = block.apply(
                variables | {"params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.square(changed).sum(), state

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        self._start = lambda: gradient(variables["params"], images)

    def durations(self, count: int) -> list[float]:
        """Milliseconds of each of `count` calls."""
        return timing.durations(self._start, jax.block_until_ready, count)


def peer_part(command: list[str], part: str) -> float:
    """The peer's milliseconds of "augment" or "saib"."""
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)[part]


def row(part: str, times: list[list[float]]) -> str:
    """A line of the table; `times` are [ours, *PEERS][round] in ms."""
    cells = [part, *(timing.spread(timing.extent(each), "{:.1f}") for each in times)]
    for peer in times[1:]:
        cells.append(timing.spread(timing.extent(timing.ratios(times[0], peer)), "{:.2f}"))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table and what was run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/resnet18.py:cifar10")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a round")
    parser.add_argument("--peer", required=True, help="path of torch_peer.py")
    parser.add_argument("--peer_python", default="python", help="a Python that has PyTorch")
    parser.add_argument("--peer_flags", default="", help="more flags of the peer's step")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the times too")
    parser.add_argument("overrides", nargs="*", help="--config.KEY=VALUE for ours, after --")
    args = parser.parse_args()
    runtime.configure()
    overrides = [f"--config.train.batch_size={args.batch}", *args.overrides]
    config = config_lib.load(args.config, [*saib_overhead.MATCHED, *overrides])

    flags = saib_overhead.peer_flags(config, "ie_cl")
    of_step = [args.peer_python, args.peer, *flags, f"--steps={args.steps}", "--warmup=1"]
    of_step += shlex.split(args.peer_flags)
    threads = next(flag for flag in flags if flag.startswith("--threads"))
    of_part = [
        *(args.peer_python, str(pathlib.Path(__file__).with_name("torch_parts.py"))),
        *(f"--peer={args.peer}", threads, f"--batch={args.batch}"),
        *(f"--size={config.data.image_size}", f"--group={config.saib.group_size}"),
        f"--patch={config.saib.patch_size}",
    ]
    seen: dict = {}

    def peer_step(more: list[str]) -> float:
        seen.update(saib_overhead.run_peer([*of_step, *more]))
        return seen["ms_per_step"]

    ours: dict[str, Callable[[int], list[float]]] = {
        "step": parts.TimedStep(config).durations,
        "augment": parts.TimedAugmentation(config).durations,
        "saib": TimedSAIB(config).durations,
    }
    rows, found = [], {}
    for part, durations in ours.items():
        calls = args.steps if part == "step" else 10
        contestants = [lambda f=durations, n=calls: statistics.median(f(n))]
        for more in PEERS.values():
            time_peer = (
                functools.partial(peer_step, more)
                if part == "step"
                else functools.partial(peer_part, [*of_part, *more], part)
            )
            contestants.append(time_peer)
        times = timing.alternate(contestants, args.rounds)
        found[part] = dict(zip(("ours", *PEERS), times, strict=True))
        rows.append(row(part, times))
        print(rows[-1], file=sys.stderr, flush=True)

    print("| part | ours, ms | peer eager, ms | peer compiled, ms | to eager | to compiled |")
    print(f"|---|{'---:|' * 5}")
    print("\n".join(rows))
    print(f"\nours: {workdir.device_description()}, jax {jax.__version__}")
    print(f"peer: {seen['device']}, torch {seen['torch']}")
    print(shlex.join(["python", *sys.argv]))
    print(shlex.join(of_step))
    if args.json:
        workdir.write_atomically(args.json, json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
