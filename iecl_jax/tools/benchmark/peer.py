"""Runs the PyTorch peer `torch_peer.py` with the shapes of one of our configs."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from iecl_jax.run import command_line, workdir
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import timing

# Our method -> the peer's name for it.
METHODS = {
    "ie_cl": "iecl",
    "moco_v2": "moco",
    "simclr": "simclr",
    "byol": "byol",
    "simsiam": "simsiam",
}
# Overrides that give our step the peer's projector and optimizer.
MATCHED = (
    "--config.projector.num_layers=3",
    "--config.projector.hidden_dim=4096",
    "--config.projector.output_dim=512",
    "--config.projector.hidden_bn=True",
    "--config.projector.output_bn=True",
    "--config.optimizer.name=sgd",
)
# Our precision -> the peer's name for it.
AMP = {"float32": "none", "bfloat16": "bf16", "float16": "fp16"}


def parser(text: str, *, rounds: int, steps: int) -> arguments.Parser:
    """Returns a parser with the flags of a comparison with the peer; `text` is its description."""
    found = arguments.Parser(text)
    found.add_argument("--config", default="configs/resnet18.py:cifar10", help="FILE[:VARIANT]")
    found.add_argument("--batch", type=int, default=64)
    timing.add_flags(found, rounds=rounds, steps=steps)
    found.add_argument("--peer", required=True, help="path of torch_peer.py")
    found.add_argument("--peer_python", default="python", help="a Python that has PyTorch")
    found.add_argument("--peer_flags", default="", help="more flags of the peer's step")
    return found


def flags(config: ml_collections.ConfigDict, method: str, device: str) -> list[str]:
    """Returns the peer's flags for the shapes of a config with SAIB, on the device cpu or cuda."""
    found = [
        f"--method={METHODS[method]}",
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
        f"--device={device}",
        f"--threads={len(os.sched_getaffinity(0))}",
        "--aug",
    ]
    if method == "moco_v2":
        found.append(f"--queue={config.method.queue_size}")
    if "predictor" in config.method:
        found.append(f"--pred-hidden={config.method.predictor.hidden_dim}")
    return found


def step_command(
    args: argparse.Namespace, config: ml_collections.ConfigDict, method: str
) -> list[str]:
    """Returns the command that times the peer's step; `args` comes from `parser`."""
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    command = [args.peer_python, args.peer, *flags(config, method, device), f"--steps={args.steps}"]
    return [*command, "--warmup=1", *shlex.split(args.peer_flags)]


def run(command: Sequence[str]) -> dict[str, Any]:
    """Returns the JSON that a command prints; if it fails, ends this process with its last line."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"error: {shlex.join(command)}: {(result.stderr.splitlines() or ['failed'])[-1]}")
    return json.loads(result.stdout)


def describe(seen: dict[str, Any]) -> str:
    """Returns our device and versions, those that the peer's step printed, and our command."""
    return (
        f"ours: {workdir.device_description()}, jax {jax.__version__}\n"
        f"peer: {seen['device']}, torch {seen['torch']}\n"
        + command_line.shown(command_line.typed())
    )
