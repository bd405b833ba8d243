"""Our input path beside PyTorch's `DataLoader`, in turns on the same cores.

    taskset -c 1 python -m iecl_jax.tools.benchmark.input_overhead --python=TORCH_PYTHON [--images=DIR]

The two cases of `tools.benchmark.reading`. The peer, torch_input.py, is a new process every time,
with one worker a core, and makes the same crops with the same Pillow calls. Ours also puts the
batches on the device of JAX, the peer's stay where the worker left them.
"""

import argparse
import functools
import json
import pathlib
import shlex
import subprocess
import sys

from iecl_jax.run import workdir
from iecl_jax.tools.benchmark import reading as speed

PEER = pathlib.Path(__file__).with_name("torch_input.py")


def peer_command(python, name, case):
    """The peer's command line for a case of `speed.open_cases`."""
    config = case.config
    ops = config.augment.anchor
    command = [*shlex.split(python), str(PEER), f"--batch={config.train.batch_size}"]
    command += [f"--batches={case.batches}", f"--size={config.data.image_size}"]
    if name == "cached":
        return [*command, f"--cached={speed.NUM_CACHED}"]
    command += [f"--images={config.data.dir}", f"--workers={config.data.num_threads}"]
    for limit in ("scale", "ratio"):
        command += [f"--{limit}", *map(str, ops[f"crop_{limit}"])]
    return command


def run_peer(command):
    """What the peer prints; its last line of stderr is the error if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {shlex.join(command)}: {(done.stderr.splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout)


def main():
    """Prints the table; `--json` writes the rates of all rounds and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    speed.add_flags(parser)
    parser.add_argument("--python", required=True, help="a Python with PyTorch and Pillow")
    args = parser.parse_args()
    rates, seen = {}, {}
    with speed.open_cases(args) as cases:
        for name, case in cases.items():
            command = peer_command(args.python, name, case)

            def peer(command=command):
                seen.update(run_peer(command))
                return speed.Rate(seen["images_per_second"], seen["images_per_cpu_second"])

            contestants = {name: functools.partial(speed.measure, case), f"torch_{name}": peer}
            rates |= {contestant: [] for contestant in contestants}
            for number in range(args.rounds):
                for contestant in list(contestants)[:: -1 if number % 2 else 1]:
                    rates[contestant].append(contestants[contestant]())
    result = speed.summarize(rates)
    print("| case | unit | ours | DataLoader | ours / DataLoader |\n|---|---|---:|---:|---:|")
    for name in cases:
        for unit in ("second", "cpu_second"):
            ours, theirs = (result[f"{who}_images_per_{unit}"] for who in (name, f"torch_{name}"))
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            result[f"{name}_ratio_per_{unit}"] = ratios
            cells = [name, f"images/{unit.replace('cpu_', 'CPU ')}"]
            cells += [speed.spread(ours), speed.spread(theirs), speed.spread(ratios, "{:.2f}")]
            print(f"| {' | '.join(cells)} |")
    if args.json:
        workdir.write_atomically(args.json, json.dumps(result, indent=2))
    print(f"\n{speed.describe(result)}; peer: torch {seen['torch']}")
    print(shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    main()
