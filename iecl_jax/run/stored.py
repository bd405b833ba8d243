"""Reads checkpoints from the disk: WORKDIR/checkpoints/STEP with its items, whole or refused."""

import contextlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from iecl_jax import config as config_lib
from iecl_jax.run import seal

BEST_METRIC = "knn_top1"
SCORES = "scores.json"  # Beside the items, since it is written later than they are.


def read_records(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (seal, {"data", "config", "metrics"}); raises if one is missing or damaged."""
    read = {}
    for name in ("seal", "data", "config", "metrics"):
        try:
            read[name] = ocp.JsonCheckpointHandler().restore(path / name)
        except ValueError as error:
            raise ValueError(f"its {name} is not JSON") from error
    sealed = read.pop("seal")
    seal.check_records(sealed, read)
    if str(read["data"]["step"]) != path.name:
        raise ValueError(f"it was saved as step {read['data']['step']}")
    return sealed, read


def step_config_facts(
    records: Mapping[str, Any],
) -> tuple[int, ml_collections.ConfigDict, dict[str, Any]]:
    """Returns the step, the config with today's keys, and all other facts of a checkpoint."""
    config = config_lib.from_json(json.dumps(records["config"]))
    return records["data"]["step"], config, records["data"]


def read_leaves(
    path: pathlib.Path, sealed: Mapping[str, Any], fields: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of the named fields (None = all) by path; raises if one is damaged.

    Orbax stores Zarr arrays in one OCDBT database. They are read directly with TensorStore, because
    Orbax's own restore prints a traceback for every array after the first damaged one.
    """
    fields = [field for field in sealed["fields"] if fields is None or field in fields]
    database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path / 'state'}/"}}
    # All arrays are opened before any is read, so that TensorStore reads them in parallel.
    arrays, leaves = {}, {}
    for name, (dtype, shape) in sealed["leaves"].items():
        if name.split("/")[0] in fields and math.prod(shape):
            kvstore = {**database, "path": name.replace("/", ".") + "/"}
            arrays[name] = tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True)
        elif name.split("/")[0] in fields:  # `save` left out empty arrays.
            leaves[name] = np.zeros(shape, np.dtype(dtype))
    opened = {name: _result(name, array).read() for name, array in arrays.items()}
    leaves |= {name: _result(name, values) for name, values in opened.items()}
    seal.check_leaves(sealed, leaves)
    return leaves


def _result(name: str, future: tensorstore.Future) -> Any:
    try:
        return future.result()
    except ValueError as error:
        code = str(error).split(":")[0]
        raise ValueError(f"its array {name} cannot be read ({code})") from error


def newest_first(directory: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints in a folder, by step; [] if there is no such folder."""
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def best_first(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the paths that have a finite BEST_METRIC, best first; of equals, the newer first."""
    found: dict[pathlib.Path, float] = {}
    for path in paths:
        with contextlib.suppress(Exception):
            metrics = read_records(path)[1]["metrics"] | (scores(path) or {})
            score = metrics.get(BEST_METRIC, math.nan)
            if math.isfinite(score):
                found[path] = score
    return sorted(found, key=lambda path: found[path], reverse=True)


def scores(path: pathlib.Path) -> dict[str, float] | None:
    """Returns what `measured` wrote, or None if it wrote nothing or the file is damaged."""
    try:
        found = json.loads((path / SCORES).read_text())
        return found["scores"] if seal.digest_json(found["scores"]) == found["digest"] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def none_whole(directory: pathlib.Path, refused: Mapping[pathlib.Path, str], other: str) -> str:
    """Returns the error message for a folder in which every checkpoint is refused.

    `other` is what else the command can name, such as "use another --workdir".
    """
    reasons = "; ".join(f"{path.name}: {reason}" for path, reason in refused.items())
    return f"no checkpoint in {directory} can be used ({reasons}): repair them, or {other}."


def one_line(error: Exception) -> str:
    """Returns the first 200 characters of an error on one line, without a closing full stop."""
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:200].rstrip(".") or type(error).__name__
