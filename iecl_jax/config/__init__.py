"""The settings of a run, each written once: default, rule and text (`pretrain.py`, `evaluation.py`,
and the `Settings` of the files that a config names).

From them come a config's defaults (`new`), what a config file and the command make of it (`load`),
the checks (`check`), what `--print_config` prints (`show`), and the keys that an older config lacks
or calls otherwise (`from_json`).
"""

from iecl_jax.config.checking import check, check_length, check_pretrain
from iecl_jax.config.files import load, parse
from iecl_jax.config.schema import complete, from_json, new, to_json, unknown_key
from iecl_jax.config.section import leaves
from iecl_jax.config.showing import show

__all__ = [
    "check",
    "check_length",
    "check_pretrain",
    "complete",
    "from_json",
    "leaves",
    "load",
    "new",
    "parse",
    "show",
    "to_json",
    "unknown_key",
]
