"""Lists the collectives of a config's training step.

    python -m iecl_jax.tools.benchmark.step_program --config=configs/resnet18.py:cifar10 --devices=8

prints what the step asks for on 8 host devices, in a Markdown table, and the work of one of them;
with --compiled what XLA's CPU backend makes of it, which drops duplicates and combines some. What
follows `--` overrides the config. Nothing is trained.
"""

import argparse
import collections
import os
import re
from collections.abc import Iterable
from typing import Any

import ml_collections

LENGTH = {"total_steps": 10**6, "steps_per_epoch": 1000, "num_classes": 10}  # it changes nothing
PURPOSES = (  # (words of JAX's names, what it is for), the first that fits
    (r"(?=.*transpose)(?=.*(SAIB|block\d).*bn)", "BN of SAIB, gradient"),
    (r"(SAIB|block\d).*bn", "BN of SAIB"),
    (r"(?=.*transpose)(?=.*bn)", "BN of the networks, gradient"),
    (r".*bn", "BN of the networks"),
    (r".*reduce_scatter", "gradient of gathered embeddings"),
    (r".*all_gather", "embeddings"),
    (r".*jvp\(\)/psum", "number of labelled images"),
    (r"", "gradients and metrics"),
)


def lower(config: ml_collections.ConfigDict) -> Any:
    """The lowered step of `config` for all devices."""
    import jax
    import numpy as np

    from iecl_jax.train import experiment
    from iecl_jax.train.step import AXIS

    built = experiment.build(config, **LENGTH)
    step = jax.pmap(
        built.pure_step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
    )
    devices, size = jax.device_count(), config.data.image_size
    images = (devices, config.train.batch_size // devices)
    batch = {
        "image": jax.ShapeDtypeStruct((*images, size, size, 3), np.uint8),
        "label": jax.ShapeDtypeStruct(images, np.int32),
    }
    state = jax.eval_shape(built.create_state)
    return step.lower(state, batch, np.uint32(config.seed))


def purpose(source: str) -> str:
    """What a collective of this `hlo.Collective.source` is for."""
    return next(name for words, name in PURPOSES if re.search(words, source))


def table(found: Iterable[Any]) -> str:
    """Markdown: one row for each kind and purpose of the collectives."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in found:
        row = sums[each.kind, purpose(each.source)]
        row[0] += 1
        row[1] += each.bytes
    lines = ["| kind | what for | count | bytes a device |", "|---|---|---:|---:|"]
    lines += [f"| {k} | {p} | {n} | {b:,} |" for (k, p), (n, b) in sums.items()]
    return "\n".join(lines)


def main() -> None:
    """Prints the table of the command line's config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="FILE[:VARIANT]")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    # Before JAX is imported: it reads them then.
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    from iecl_jax import config as config_lib
    from iecl_jax.tools.benchmark import hlo

    lowered = lower(config_lib.load(args.config, args.overrides))
    if args.compiled:
        text = lowered.compile().as_text()
    else:
        text = lowered.as_text("hlo", debug_info=True)
    print(table(hlo.collectives(text)))
    print(f"\nA device computes {lowered.cost_analysis()['flops'] / 1e9:.2f} GFLOP a step.")


if __name__ == "__main__":
    main()
