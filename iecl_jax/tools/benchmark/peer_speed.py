"""Compares IE-CL's step, augmentation and SAIB with the PyTorch peer.

    python -m iecl_jax.tools.benchmark.peer_speed --peer=PATH/torch_peer.py --peer_python=PYTHON

Three contestants take turns, one at a time on all cores; every other round goes backwards. They are
ours and the peer's eager and compiled (`--compile`) forms. The peer runs in a new process every
time, and its first call is not timed. A ratio is our time divided by the peer's time of the same
round: below 1, ours is faster. The parts:

  step     Both augment and have the same ResNet, projector, SAIB, spectral norm, losses and
           precision. Ours also trains the online probe.
  augment  Both views of a batch. The operators differ: ours are torchvision's (antialiased crop,
           jitter in random order, hue in HSV); the peer's are cheaper, see its README.
  saib     One forward and backward pass, with gradients of the parameters and the images.
"""

import functools
import json
import pathlib
import shlex
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iecl_jax import config as config_lib
from iecl_jax.models import build
from iecl_jax.run import markdown, runtime, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import parts, peer, timing

FORMS = {"eager": [], "compiled": ["--compile"]}
TORCH_PARTS = pathlib.Path(__file__).with_name("torch_parts.py")


class TimedSAIB:
    """Times SAIB's forward and backward pass on one device.

    The gradients are those of the parameters and of the images.
    """

    def __init__(self, config: ml_collections.ConfigDict):
        size = config.data.image_size
        shape = (config.train.batch_size, size, size, 3)
        images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
        block = build.saib(config)
        assert block is not None, "the peer always has SAIB"
        variables = block.init(jax.random.key(0), images, train=False)

        def loss(params, images):
            changed, state = block.apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.square(changed).sum(), state

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        self._start = lambda: gradient(variables["params"], images)

    def durations(self, count: int) -> list[float]:
        """Returns the milliseconds of each of `count` calls."""
        return timing.durations(self._start, jax.block_until_ready, count)


def row(part: str, times: list[list[float]]) -> list[str]:
    """Returns the cells of a row of the table; `times` is [ours, *FORMS][round] in ms."""
    cells = [part, *(timing.spread(timing.extent(each), "{:.1f}") for each in times)]
    for of_peer in times[1:]:
        cells.append(timing.spread(timing.extent(timing.ratios(times[0], of_peer)), "{:.2f}"))
    return cells


def main() -> None:
    """Prints the table and the commands."""
    parser = peer.parser(__doc__, rounds=5, steps=3)
    parser.add_argument("--json", type=arguments.new_file, help="also write the times to this file")
    args = parser.parse()
    runtime.configure()
    overrides = [f"--config.train.batch_size={args.batch}", *args.overrides]
    config = config_lib.load(args.config, [*peer.MATCHED, *overrides])

    of_step = peer.step_command(args, config, "ie_cl")
    threads = next(flag for flag in of_step if flag.startswith("--threads"))
    of_part = [
        *(args.peer_python, str(TORCH_PARTS), f"--peer={args.peer}", threads),
        *(f"--batch={args.batch}", f"--size={config.data.image_size}"),
        *(f"--group={config.saib.group_size}", f"--patch={config.saib.patch_size}"),
    ]
    seen: dict = {}

    def time_peer(part: str, form: str) -> float:
        if part != "step":
            return peer.run([*of_part, *FORMS[form]])[part]
        seen.update(peer.run([*of_step, *FORMS[form]]))
        return seen["ms_per_step"]

    ours: dict[str, Callable[[int], list[float]]] = {
        "step": parts.TimedStep(config).durations,
        "augment": parts.TimedAugmentation(config).durations,
        "saib": TimedSAIB(config).durations,
    }
    rows, found = [], {}
    for part, durations in ours.items():
        calls = args.steps if part == "step" else 10
        contestants = [functools.partial(timing.median, durations, calls)]
        contestants += [functools.partial(time_peer, part, form) for form in FORMS]
        times = timing.alternate(contestants, args.rounds)
        found[part] = dict(zip(("ours", *FORMS), times, strict=True))
        rows.append(row(part, times))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)

    titles = ["part", "ours, ms", "peer eager, ms", "peer compiled, ms", "to eager", "to compiled"]
    print(markdown.table(titles, rows))
    print(f"{peer.describe(seen)}\n{shlex.join(of_step)}")
    if args.json:
        workdir.write_atomically(args.json, json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
