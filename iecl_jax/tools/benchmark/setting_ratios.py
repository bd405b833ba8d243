"""Measures how much faster each setting makes the step on a CPU.

    python -m iecl_jax.tools.benchmark.setting_ratios [--config=FILE:VARIANT] [--config.KEY=X]

A ratio is the time without one setting divided by the time with all settings, in the same round:
above 1, the setting makes the step faster. Each time is the median of `--steps` steps in a new
process. The settings take turns; every other round goes backwards. They are those of
`iecl_jax/run/runtime.py`, and `WINOGRAD_CHANNELS` of `iecl_jax/models/conv.py`. The last row shows
the cost of `encoder.remat`.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from iecl_jax.config import files
from iecl_jax.run import command_line, markdown, runtime
from iecl_jax.tools import arguments
from iecl_jax.tools.benchmark import timing

YNNPACK = f"{runtime.CPU_FLAGS[0]},LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
BENCHMARK = "from iecl_jax.tools.benchmark.__main__ import main; main()"
# What a program does before BENCHMARK.
RETURNING = "from iecl_jax.run import runtime; runtime.keep_freed_memory = lambda: None; "
SMALL = "from iecl_jax.run import runtime; runtime.use_huge_pages = lambda libc: None; "
DIRECT = "from iecl_jax.models import conv; conv.WINOGRAD_CHANNELS = 10**9; "
# Row of the table -> (XLA_FLAGS, what the program does first, overrides).
SETTINGS = {
    "all": ("", "", []),
    "3x3 convolutions as direct sums": ("", DIRECT, []),
    "convolutions of YNNPACK, not Eigen": (YNNPACK, "", []),
    "barriers dropped": ("--xla_disable_hlo_passes=", "", []),
    "freed memory returned to the system": ("", RETURNING, []),
    "memory in small pages": ("", SMALL, []),
    "none of the five": (f"{YNNPACK} --xla_disable_hlo_passes=", DIRECT + RETURNING, []),
    "encoder.remat=True": ("", "", ["--config.encoder.remat=True"]),
}


def milliseconds(name: str, config: str, steps: int, overrides: list[str]) -> float:
    """Returns the median milliseconds per step in a new process, for a row of SETTINGS."""
    flags, first, more = SETTINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "step.json")
        command = [
            *(
                sys.executable,
                "-c",
                first + BENCHMARK,
                f"--config={config}",
                "--only=step",
                "--rounds=1",
            ),
            *(f"--steps={steps}", f"--json={path}", *files.merged([*overrides, *more])),
        ]
        environment = os.environ | {"XLA_FLAGS": flags}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        return json.loads(path.read_text())["step_ms_median"]


def main() -> None:
    """Prints the table."""
    parser = arguments.Parser(__doc__)
    parser.add_argument("--config", default="configs/resnet18.py:cifar10")
    timing.add_flags(parser, rounds=3, steps=3)
    args = parser.parse()
    contestants = [
        functools.partial(milliseconds, name, args.config, args.steps, args.overrides)
        for name in SETTINGS
    ]
    times = timing.alternate(contestants, args.rounds)
    rows = []
    for name, each in zip(SETTINGS, times, strict=True):
        ratio = timing.spread(timing.extent(timing.ratios(each, times[0])), "{:.2f}")
        rows.append([name, timing.spread(timing.extent(each), "{:.0f}"), ratio])
    print(markdown.table(["setting", "ms a step", "ratio"], rows))
    print(command_line.shown(command_line.typed()))


if __name__ == "__main__":
    main()
