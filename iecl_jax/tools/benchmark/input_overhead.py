"""Compares our input pipeline with PyTorch's `DataLoader`, in turns on the same cores.

    taskset -c 1 python -m iecl_jax.tools.benchmark.input_overhead --python=TORCH_PYTHON

It measures the cases of `tools.benchmark.reading`. The peer, torch_input.py, runs in a new
process every time, with one worker per core, and makes the same crops with the same Pillow calls.
Our pipeline also puts the batches on JAX's device; the peer's batches stay on the host.
"""

import functools
import json
import pathlib
import shlex
import statistics
from collections.abc import Callable
from typing import Any

from iecl_jax.run import command_line, markdown, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import peer, timing
from iecl_jax.tools.benchmark import reading as speed

# What the peer does, and the cases that take turns with it.
PEERS = {"torch_cached": ["cached"], "torch_jpeg": ["jpeg", speed.IN_PROCESSES]}
PEER = pathlib.Path(__file__).with_name("torch_input.py")


def peer_command(python: str, name: str, case: speed.Case) -> list[str]:
    """Returns the peer's command line for a case of `speed.open_cases`."""
    config = case.config
    crop = config.augment.anchor.crop
    command = [*shlex.split(python), str(PEER), f"--batch={config.train.batch_size}"]
    command += [f"--batches={case.batches}", f"--size={config.data.image_size}"]
    if name == "cached":
        return [*command, f"--cached={speed.NUM_CACHED}"]
    command += [f"--images={config.data.dir}", f"--workers={config.data.num_threads}"]
    for limit in ("scale", "ratio"):
        command += [f"--{limit}", *map(str, crop[limit])]
    return command


def main() -> None:
    """Prints the table. `--json` also writes the rates of all rounds and the ratios."""
    parser = arguments.Parser(__doc__)
    speed.add_flags(parser)
    parser.add_argument("--python", required=True, help="a Python with PyTorch and Pillow")
    args = parser.parse()
    rates: dict[str, list[speed.Rate]] = {}
    seen: dict[str, Any] = {}
    with speed.open_cases(args) as cases:
        for peers, names in PEERS.items():
            command = peer_command(args.python, names[0], cases[names[0]])

            def time_peer(command=command):
                seen.update(peer.run(command))
                every = seen["images_per_cpu_second"]
                return speed.Rate(seen["images_per_second"], every, every)

            ours: list[Callable[[], speed.Rate]] = [
                functools.partial(speed.measure, cases[name]) for name in names
            ]
            found = timing.alternate([*ours, time_peer], args.rounds)
            rates |= dict(zip([*names, peers], found, strict=True))
    result = speed.summarize(rates)
    rows = []
    for peers, name in [(peers, name) for peers, names in PEERS.items() for name in names]:
        for unit in speed.UNITS[:2]:
            pair = [result[f"{who}_images_per_{unit}"] for who in (name, peers)]
            result[f"{name}_ratio_per_{unit}"] = ratios = timing.ratios(*pair)
            cells = [name, f"images/{unit.replace('cpu_', 'CPU ')}"]
            spreads = [(pair[0], "{:.0f}"), (pair[1], "{:.0f}"), (ratios, "{:.2f}")]
            cells += [timing.spread(timing.extent(values), form) for values, form in spreads]
            rows.append(cells)
    print(markdown.table(["case", "unit", "ours", "DataLoader", "ours / DataLoader"], rows, text=2))
    if args.json:
        workdir.write_atomically(args.json, json.dumps(result, indent=2))
    own = statistics.median(result[f"{speed.IN_PROCESSES}_images_per_own_cpu_second"])
    print(f"{speed.IN_PROCESSES}: {1000 / own:.3f} ms of the main process for an image")
    print(f"{speed.describe(result)}; peer: torch {seen['torch']}")
    print(command_line.shown(command_line.typed()))


if __name__ == "__main__":
    main()
