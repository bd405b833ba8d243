"""The command `iecl`, which is also `python -m iecl_jax`.

`iecl TOOL ...` is `python -m iecl_jax.tools.TOOL ...`, for example `iecl encode` and
`iecl figures.neighbours`. Anything else is `python -m iecl_jax.main ...`.
"""

import difflib
import runpy
import sys

from iecl_jax.config import listing

TOOLS = "iecl_jax.tools"


def start() -> None:
    """Runs the command as the main module, after which absl or argparse names its flags."""
    module, word = "iecl_jax.main", sys.argv[1] if len(sys.argv) > 1 else ""
    commands = listing.tools(TOOLS) | listing.tools(f"{TOOLS}.figures")
    names = [command.removeprefix(f"python -m {TOOLS}.") for command in commands]
    inside = [name for name in names if name.endswith(f".{word}")]
    if word in names:
        module = f"{TOOLS}.{sys.argv.pop(1)}"
    elif near := inside or difflib.get_close_matches(word, names, cutoff=0.8):
        sys.exit(f"error: {word} is no tool: did you mean iecl {near[0]}?")
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    start()
