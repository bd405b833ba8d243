"""Lists the collectives of a config's training step.

    python -m iecl_jax.tools.benchmark.collectives --config=configs/resnet18.py:cifar10

It prints a Markdown table of the collectives that the step requests on 8 host devices, and the work
of one device. With --compiled it lists those of the compiled program instead: XLA's CPU backend
drops duplicates and combines some. Arguments after `--` override the config. Nothing is trained.
"""

import collections
import os
import re
from collections.abc import Iterable
from typing import Any

import ml_collections

from iecl_jax.run import markdown
from iecl_jax.tools import arguments

PURPOSES = (  # (pattern of JAX's operation names, purpose); the first match counts.
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
    """Returns the lowered step of `config` for all devices."""
    import jax

    from iecl_jax.tools.benchmark import program

    return program.lower(program.prepare(config, jax.device_count()))[1]


def purpose(source: str) -> str:
    """Returns the purpose of a collective with this `hlo.Collective.source`."""
    return next(name for words, name in PURPOSES if re.search(words, source))


def table(found: Iterable[Any]) -> str:
    """Returns a Markdown table with a row for each kind and purpose of the collectives."""
    sums: dict[tuple[str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for each in found:
        row = sums[each.kind, purpose(each.source)]
        row[0] += 1
        row[1] += each.bytes
    rows = [[kind, what, str(count), f"{size:,}"] for (kind, what), (count, size) in sums.items()]
    return markdown.table(["kind", "what for", "count", "bytes a device"], rows, text=2)


def main() -> None:
    """Prints the table of the config on the command line."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", required=True, help="FILE[:VARIANT]")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--compiled", action="store_true")
    args = parser.parse()
    # Set before JAX is imported, which reads them.
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
    print(f"A device computes {lowered.cost_analysis()['flops'] / 1e9:.2f} GFLOP a step.")


if __name__ == "__main__":
    main()
