"""Self-supervised methods: pure functions made from a config, one file a method, no base class.

A method's file holds `make(config, *, total_steps, axis_name)`, which returns a `Method`, and
`SETTINGS`, the keys of `config.method` that it reads and their rules. It is named by
`config.method.name`: a file of this package without its ending, or the path of any other.
"""

import importlib
import importlib.util
import pathlib
import pkgutil
import types

import ml_collections

from iecl_jax.config import checks
from iecl_jax.methods.parts import saib
from iecl_jax.methods.parts.method import Method as Method

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def load(name: str) -> types.ModuleType:
    """The module of a method: one of NAMES, or the path of a Python file.

    Raises:
      ValueError: there is none, or the file lacks `make` or `SETTINGS`.
    """
    if not name.endswith(".py"):
        checks.one_of("method.name", name, NAMES)
        return importlib.import_module(f"{__name__}.{name}")
    path = pathlib.Path(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"method.name={name!r} is no Python file: name one that exists.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for part in ("make", "SETTINGS"):
        if not hasattr(module, part):
            raise ValueError(f"method.name={name!r} has no {part}: see iecl_jax/methods/byol.py.")
    return module


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ValueError if `config.method` is not what its method reads."""
    name = config.method.name
    rules = {f"method.{key}": rule for key, rule in load(name).SETTINGS.items()}
    present = {f"method.{key}" for key in checks.leaf_names(config.method)} - {"method.name"}
    start = f"start from configs/plug_and_play.py:{name}, or " if name in NAMES else ""
    for key in sorted(rules.keys() - present):
        raise ValueError(
            f"method.name={name!r} needs {key}, which this config lacks: {start}add it."
        )
    for key in sorted(present - rules.keys()):
        raise ValueError(
            f"{key} is no setting of method.name={name!r}, which reads {', '.join(rules)}: "
            f"{start}take it out."
        )
    checks.check(config, rules)


def make(
    config: ml_collections.ConfigDict, *, total_steps: int, axis_name: str | None = None
) -> Method:
    """The method of `config.method.name`, with SAIB where `config.saib` is enabled."""
    method = load(config.method.name).make(config, total_steps=total_steps, axis_name=axis_name)
    return saib.attach(method, config, axis_name)
