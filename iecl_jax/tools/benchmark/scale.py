"""Estimates what the rows of a table cost at the paper's scale, on several machines.

    python -m iecl_jax.tools.benchmark.scale --table=1

Nothing is compiled or trained. A row's operations are those of products and convolutions in its
traced step, and its bytes those of its parameters and of its state. What turns them into time is

    step = operations / (devices * speed) + 2 (n - 1) / n * bytes of the gradient / link

with the speed of an encoder on one H200, which was measured (docs/performance.md), times the ratio
of the memory bandwidths, because memory limits the step. The second part is a ring over n devices,
as if no communication overlapped with computation. Reading images, evaluations and the start are
not in it, nor is that a device with few images is slower. A machine that the config does not fit,
because of its groups of images, has no number. So these are estimates and no measurements;
docs/cost.md compares them with what was measured.
"""

import argparse
import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import ml_collections

from iecl_jax import config as config_lib
from iecl_jax import console
from iecl_jax.config import own_files
from iecl_jax.run import markdown
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import program
from iecl_jax.tools.benchmark.flops import product_flops
from iecl_jax.tools.benchmark.gpus import GPUS
from iecl_jax.tools.tables.rows import read_tables

TABLES = "configs/tables.py"
SCALED = ("1", "2a", "3", "4", "5")  # the tables of pretrainings of full length
# Training images. STL-10 trains on its unlabelled images.
IMAGES = {"imagenet2012": 1_281_167}
IMAGES |= {"cifar10": 50_000, "cifar100": 50_000, "stl10": 100_000}


class Machine(NamedTuple):
    """Devices of one kind.

    Attributes:
      name: for the heading.
      devices: how many.
      memory: bytes a second between a device and its memory, by the data sheet.
      link: bytes a second that a device sends in a ring, by the data sheets of NVLink or of the
        network, of which collectives reach less.
    """

    name: str
    devices: int
    memory: float
    link: float


MACHINES = (
    Machine("8 x V100", 8, GPUS["v100"].bandwidth, 0.15e12),  # NVLink 2: 150 GB/s in a direction
    Machine("8 x H100", 8, GPUS["h100"].bandwidth, 0.45e12),  # NVLink 4: 450 GB/s
    Machine("64 x H100", 64, GPUS["h100"].bandwidth, 0.05e12),  # 400 Gbit/s a device
)
# On one H200, bfloat16, batch 256: operations a second of IE-CL's step, by side of the image.
REFERENCE_MEMORY = GPUS["h200"].bandwidth
REFERENCE = {
    224: ("configs/imagenet_r50.py:100", 0.12732),
    32: ("configs/resnet18.py:cifar10", 0.01013),
}


class Cost(NamedTuple):
    """What a config costs.

    Attributes:
      flops: operations of a step with the whole batch.
      gradient: bytes of the gradient, which the devices exchange in each step.
      checkpoint: bytes of a checkpoint.
    """

    flops: float
    gradient: int
    checkpoint: int


def cost(config: ml_collections.ConfigDict) -> Cost:
    """Returns the cost of a pretraining; it only traces the step."""
    prepared = program.prepare(config, 1)
    jaxpr, state = program.traced(prepared, jax.devices()[:1])
    gradient, checkpoint = program.num_bytes(state.params), program.num_bytes(state)
    return Cost(product_flops(jaxpr), gradient, checkpoint)


def num_steps(config: ml_collections.ConfigDict) -> int:
    """Returns the length of a pretraining in steps."""
    train = config.train
    return train.num_steps or train.num_epochs * (IMAGES[config.data.name] // train.batch_size)


@functools.cache
def reference_speed(side: int) -> float:
    """Returns operations a second of the measured step for images of about this side."""
    near = min(REFERENCE, key=lambda known: abs(math.log(known / side)))
    flag, seconds = REFERENCE[near]
    return cost(config_lib.load(flag)).flops / seconds


def seconds_of_step(found: Cost, side: int, machine: Machine) -> float:
    """Returns the formula at the head of this file."""
    speed = reference_speed(side) * machine.memory / REFERENCE_MEMORY
    ring = 2 * (machine.devices - 1) / machine.devices * found.gradient / machine.link
    return found.flops / (machine.devices * speed) + ring


def row(label: str, config: ml_collections.ConfigDict, found: Cost) -> list[str]:
    """Returns the cells of a row."""
    images, steps = config.train.batch_size, num_steps(config)
    cells = [
        label,
        f"{images:,}",
        f"{steps:,}",
        f"{found.flops / images / 1e9:,.1f}",
        f"{found.gradient / 1e6:,.0f}",
        f"{found.checkpoint / 1e9:.2f}",
    ]
    for machine in MACHINES:
        try:
            config_lib.check(config, machine.devices)
        except ValueError:  # the batch, a group of SAIB or of BN does not fit so many devices
            cells.append("does not fit")
            continue
        hours = steps * seconds_of_step(found, config.data.image_size, machine) / 3600
        cells.append(f"{hours:,.1f} ({hours * machine.devices:,.0f})")
    return cells


def titles() -> list[str]:
    """Returns the headings."""
    of_row = ["row", "batch", "steps", "GFLOP an image", "gradient, MB", "checkpoint, GB"]
    return of_row + [f"{machine.name}: hours (GPU-hours)" for machine in MACHINES]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; a mistake ends the process."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--table", choices=SCALED, required=True)
    return parser.parse(argv)


def costs(configs: Iterable[tuple[str, ml_collections.ConfigDict]]) -> list[list[str]]:
    """Returns the rows of the table. Configs that differ in the epochs alone are traced once."""
    known: dict[str, Cost] = {}
    rows = []
    for label, config in configs:
        same = ml_collections.ConfigDict(config.to_dict())
        same.train.num_epochs, same.data.name = 1, "imagenet2012"
        traced = config_lib.to_json(same)
        if traced not in known:
            known[traced] = cost(config)
        rows.append(row(label, config, known[traced]))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    args = parse(argv)
    with own_files.sentences():
        rows = [each for each in read_tables(TABLES)[args.table].rows if each.config]
        configs = [(each.label, config_lib.load(each.config, args.overrides)) for each in rows]
        with console.waiting("Tracing the training steps"):
            cells = costs(configs)
    print(markdown.table(titles(), cells, text=1))


if __name__ == "__main__":
    main()
