"""The settings of a run. Each key is declared once, with its default, its rule and a line of text.

The keys of pretraining are in `pretrain.py` and those of evaluation jobs in `evaluation.py`. A file
that a config names (a method, an encoder, ...) declares its own keys in its class `Settings`.

These declarations supply the default config (`new`), the config that a file and the command line
give (`load`), the checks (`check`), the listing of `--print_config` (`show`), and the keys that an
older config lacks or has under an earlier name (`from_json`).
"""

from iecl_jax.config.checking import check, check_length, check_pretrain
from iecl_jax.config.files import load, parse
from iecl_jax.config.naming import trained
from iecl_jax.config.schema import choose, complete, from_json, new, to_json, unknown_key
from iecl_jax.config.section import leaves
from iecl_jax.config.shipped import find
from iecl_jax.config.showing import show

__all__ = [
    "check",
    "check_length",
    "check_pretrain",
    "choose",
    "complete",
    "find",
    "from_json",
    "leaves",
    "load",
    "new",
    "parse",
    "show",
    "to_json",
    "trained",
    "unknown_key",
]
