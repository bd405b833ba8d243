"""The folder of a run whose command does not name one.

It is `runs/NAME`, where NAME has the config file, its variant, and every setting to which the
command gave another value. So the same command always has the same folder, where it resumes, and
another command has another one. An evaluation lies in the run that it evaluates: `RUN/evals/NAME`,
and an export in `RUN/exports/FORMAT`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_collections

from iecl_jax.config import files, paths
from iecl_jax.run import foreign, workdir

_LONGEST, _KEPT = 100, 80  # characters of a whole name, and of one that ends in a digest


def default_folder(
    flag: str, config: ml_collections.ConfigDict, changed: Mapping[str, Any]
) -> Path:
    """Returns the folder of the run that a command asks for.

    Args:
      flag: the value of --config, FILE[:VARIANT].
      config: the config with all overrides.
      changed: {dotted name: value} of the settings to which the overrides gave another value.
    """
    if config.job == "pretrain" or not config.checkpoint:
        folder = Path("runs", name(flag, changed))
        earlier = Path("runs", name(flag, {}))  # where earlier revisions kept the run
        return earlier if not folder.exists() and _belongs(earlier, config) else folder
    evaluated = paths.local("config.checkpoint", config.checkpoint)
    changed = {key: value for key, value in changed.items() if key != "checkpoint"}
    run = evaluated
    if evaluated.name.isdigit() and evaluated.parent.name == "checkpoints":
        run, changed = evaluated.parent.parent, changed | {"step": int(evaluated.name)}
    if os.access(run, os.W_OK) and not foreign.is_foreign(evaluated):
        folder = run / "evals" / name(flag, changed)
        if config.job == "export":
            settings = {key: value for key, value in changed.items() if key != "format"}
            folder = run / "exports" / name(config.format, settings)
    else:
        folder = Path("runs", name(flag, changed | {"checkpoint": str(evaluated)}))
    # An evaluation does not refuse a folder, as a training does, which may have to resume there.
    number, numbered = 1, folder
    while (numbered / "config.json").exists() and not _belongs(numbered, config):
        number += 1
        numbered = folder.with_name(f"{folder.name}-{number}")
    return numbered


def name(flag: str, changed: Mapping[str, Any]) -> str:
    """Returns the name of a run, such as `resnet18-cifar10-seed=1-train.num_epochs=100`.

    A name that would be too long, or not be a name of a folder, is shortened and ends in eight
    digits of the SHA-256 of the settings.
    """
    path, variant = files.split(flag)
    words = [Path(word).stem for word in (path, *variant.split(",")) if word]  # May be paths.
    texts = {key: _text(value) for key, value in sorted(changed.items())}
    found = "-".join([*words, *(f"{key}={text}" for key, text in texts.items())])
    if len(found) <= _LONGEST and all(
        text == _as_typed(changed[key]) for key, text in texts.items()
    ):
        return found
    settings = json.dumps(dict(changed), sort_keys=True)
    return f"{found[:_KEPT]}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _text(value: Any) -> str:
    """Returns a value without the characters that the name of a folder should not have."""
    last = _as_typed(value).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.,+-]+", "_", last, flags=re.ASCII)


def _belongs(folder: Path, config: ml_collections.ConfigDict) -> bool:
    """Returns whether the folder has a run of exactly this config."""
    try:
        return workdir.read_config(folder) == config
    except (ValueError, OSError):
        return False
