"""Saves and restores checkpoints: all that a run needs to continue, in WORKDIR/checkpoints/STEP.

A checkpoint is one Orbax directory with five items: `state` (the arrays), `data` (the position in
the data stream), `config`, `metrics`, and `seal`, which proves that the others are whole (see
`seal.py`). Orbax writes to a temporary name and then renames, so a killed process leaves a
checkpoint whole or absent. The seal detects damage that happens to the files later.

This module decides which checkpoints are kept. Orbax's CheckpointManager does not fit: it fails at
the start if one metrics file is damaged.
"""

import contextlib
import json
import logging as std_logging
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils

from iecl_jax import config as config_lib
from iecl_jax.config import paths
from iecl_jax.run import seal

BEST_METRIC = "knn_top1"
_UNFINISHED = (".orbax-checkpoint-tmp", ".deleting")
_EVALUATION_FIELDS = ("step", "params", "method_state")


class Restored(NamedTuple):
    """A checkpoint, as `Checkpointer.restore` returns it.

    Attributes:
      step: number of steps taken.
      state: the saved tree.
      position: index of the next batch in the data stream.
      stopped: True if a signal caused the save. The evaluations due at its step were then skipped.
    """

    step: int
    state: Any
    position: int
    stopped: bool


class Checkpointer:
    """Saves and restores the checkpoints of one run.

    Every process makes a Checkpointer and calls its methods in the same order. A checkpoint that no
    setting keeps is removed when the next save starts or at `close`, never before a newer one is
    whole.

    Args:
      workdir: directory of the run, shared by all processes; unfinished saves in it are removed.
      keep: how many of the newest checkpoints are kept, at least 1.
      keep_best: how many checkpoints with the highest `knn_top1` are also kept; 0 = none.
      keep_every_steps: checkpoints whose step is a multiple of this are also kept; 0 = none.
      config: the config that every checkpoint contains.

    Raises:
      ValueError: `keep` or `keep_best` is too small.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int,
        keep_best: int,
        keep_every_steps: int = 0,
        config: ml_collections.ConfigDict,
    ):
        if keep < 1 or keep_best < 0:
            raise ValueError(
                "checkpoint.keep must be at least 1 and checkpoint.keep_best at least 0, "
                f"got {keep} and {keep_best}."
            )
        _quieten_orbax()
        self._directory = pathlib.Path(workdir).absolute() / "checkpoints"
        self._keep, self._keep_best, self._keep_every = keep, keep_best, keep_every_steps
        self._config = json.loads(config_lib.to_json(config))
        if jax.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._directory.iterdir():
                if any(suffix in path.name for suffix in _UNFINISHED):
                    shutil.rmtree(path)
        _wait_for_all_processes("checkpoint:init")
        # Orbax reports a failure to make directories in the background only after 5 minutes.
        options = ocp.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(async_options=options)
            ),
            async_options=options,
        )

    def save(
        self,
        step: int,
        state: Any,
        *,
        position: int,
        metrics: Mapping[str, float] | None = None,
        stopped: bool = False,
        wait: bool = False,
    ) -> None:
        """Copies `state` to the host, then writes it in the background.

        The call first waits for the previous save. When it returns, the caller may donate `state`.
        A step that already has a checkpoint is not saved again.

        Args:
          step: number of steps taken; the name of the checkpoint.
          state: a pytree of arrays, the same on every device and process.
          position: index of the next batch in the data stream.
          metrics: named numbers, finite or not; `knn_top1`, if present, ranks the checkpoint for
            `keep_best`.
          stopped: see `Restored`.
          wait: if True, returns only when the checkpoint is whole.

        Raises:
          Exception: the previous save failed (with `wait`, this one), with its own error.
        """
        self._finish()
        if (self._directory / str(step)).exists():
            return
        leaves = seal.host_leaves(state)
        records = {
            "data": {"step": step, "position": position, "stopped": stopped},
            "config": self._config,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        }
        arrays = {tuple(path.split("/")): leaf for path, leaf in leaves.items() if leaf.size}
        self._orbax.save(
            self._directory / str(step),
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(arrays)),
                seal=ocp.args.JsonSave(seal.make(leaves, records)),
                **{name: ocp.args.JsonSave(record) for name, record in records.items()},
            ),
        )
        if wait:
            self._finish()

    def restore(self, template: Any) -> Restored | None:
        """Returns the newest whole checkpoint, bit for bit, placed like `template`.

        A newer checkpoint that is damaged or does not fit is logged and renamed to STEP.refused, so
        that its step can be saved again. It is never removed.

        Args:
          template: a freshly initialised state: arrays, or `jax.ShapeDtypeStruct`s with a sharding.

        Returns:
          The checkpoint, or None if there is none.

        Raises:
          ValueError: there are checkpoints, but none is whole and fits `template`.
        """
        self._orbax.wait_until_finished()
        wanted = seal.types(seal.paths_and_leaves(template))
        refused: dict[pathlib.Path, str] = {}
        for path in _newest_first(self._directory):
            leaves, data, reason = {}, {}, ""
            try:
                sealed, records = _read_records(path)
                seal.check_fits(sealed, wanted)
                leaves, data = _read_leaves(path, sealed), records["data"]
            except Exception as error:
                reason = _one_line(error)
            # All processes must take the same checkpoint, so all must be able to read it.
            if _true_everywhere(not reason):
                self._set_aside(refused)
                stopped = data.get("stopped", False)  # Older checkpoints lack the key.
                return Restored(data["step"], _place(leaves, template), data["position"], stopped)
            refused[path] = reason or "another process cannot read it"
        if refused:
            raise ValueError(_none_whole(self._directory, refused))
        return None

    def newest(self) -> int | None:
        """Waits for the current save, then returns the newest checkpoint's step, or None.

        Raises:
          Exception: the current save failed, with its own error.
        """
        self._finish()
        found = _newest_first(self._directory)
        return int(found[0].name) if found else None

    def close(self) -> None:
        """Waits for the last save, raises its error if it failed, and removes old checkpoints."""
        self._finish()
        self._orbax.close()

    def _finish(self) -> None:
        """Waits for the current save, then removes the checkpoints that no `keep` setting keeps."""
        self._orbax.wait_until_finished()
        if jax.process_index() != 0:
            return
        paths = _newest_first(self._directory)
        kept = {*paths[: self._keep], *_best_first(paths)[: self._keep_best]}
        if self._keep_every:
            kept |= {path for path in paths if int(path.name) % self._keep_every == 0}
        for path in paths:
            if path not in kept:
                # Renamed before it is deleted, so that a kill leaves no half checkpoint under STEP.
                doomed = path.with_name(path.name + ".deleting")
                path.rename(doomed)
                shutil.rmtree(doomed)

    def _set_aside(self, refused: Mapping[pathlib.Path, str]) -> None:
        """Renames refused checkpoints to STEP.refused, or STEP.refused+ if that is taken."""
        for path, reason in refused.items() if jax.process_index() == 0 else ():
            aside = path.with_name(path.name + ".refused")
            while aside.exists():
                aside = aside.with_name(aside.name + "+")
            path.rename(aside)
            logging.warning("%s is refused and renamed to %s: %s.", path, aside.name, reason)
        _wait_for_all_processes("checkpoint:refused")


def load_for_evaluation(
    path: str | os.PathLike, step: int | None = None, *, best: bool = False
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """Returns the config and the weights of a checkpoint, without the optimizer's state.

    Args:
      path: a WORKDIR, or one checkpoint WORKDIR/checkpoints/STEP.
      step: a step of that WORKDIR; None = the newest whole checkpoint.
      best: if True, takes the checkpoint with the highest `knn_top1` instead of the newest.

    Returns:
      The config, and {"step", "params", "method_state"} as nested dicts of NumPy arrays. A list or
      tuple becomes a dict with the keys "0", "1", ...; empty subtrees of params and method_state
      are left out.

    Raises:
      ValueError: there is no such checkpoint, or it is damaged.
    """
    path = paths.local("config.checkpoint", path).absolute()
    if path.name.isdigit() and path.parent.name == "checkpoints":
        directory, found = path.parent, [path] if path.is_dir() else []
    else:
        directory = path / "checkpoints"
        found = _newest_first(directory)
        if step is not None:
            found = [path for path in found if path.name == str(step)]
        elif best:
            found = _best_first(found)
    refused: dict[pathlib.Path, str] = {}
    for candidate in found:
        try:
            sealed, records = _read_records(candidate)
            leaves = _read_leaves(candidate, sealed, fields=_EVALUATION_FIELDS)
        except Exception as error:
            refused[candidate] = _one_line(error)
            continue
        for damaged, reason in refused.items():
            logging.warning("%s is refused: %s.", damaged, reason)
        nested = traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in leaves.items()})
        config = config_lib.from_json(json.dumps(records["config"]))
        return config, {"params": {}, "method_state": {}} | nested
    if refused:
        raise ValueError(_none_whole(directory, refused))
    wanted = f" of step {step}" if step is not None else f" with a {BEST_METRIC}" if best else ""
    raise ValueError(
        f"there is no checkpoint{wanted} in {path}: give a WORKDIR or WORKDIR/checkpoints/STEP."
    )


def _read_records(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
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


def _read_leaves(
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


def _place(leaves: Mapping[str, np.ndarray], template: Any) -> Any:
    """Returns the tree of `template` with the saved leaves, each placed like the template's."""

    def place(like: Any, value: np.ndarray) -> Any:
        if isinstance(like, np.ndarray):
            return value
        # An uncommitted array may follow the others to any device; it has to stay that way.
        if isinstance(like, jax.Array) and not like.committed:
            return jax.device_put(value)
        return jax.make_array_from_callback(value.shape, like.sharding, lambda index: value[index])

    named = seal.paths_and_leaves(template)
    placed = [place(like, leaves[path]) for path, like in named]
    return jax.tree.unflatten(jax.tree.structure(template), placed)


def _newest_first(directory: pathlib.Path) -> list[pathlib.Path]:
    if not directory.is_dir():
        return []
    found = [path for path in directory.iterdir() if path.name.isdigit() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _best_first(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the paths that have a finite BEST_METRIC, best first; of equals, the newer first."""
    scores: dict[pathlib.Path, float] = {}
    for path in paths:
        with contextlib.suppress(Exception):
            score = _read_records(path)[1]["metrics"].get(BEST_METRIC, math.nan)
            if math.isfinite(score):
                scores[path] = score
    return sorted(scores, key=lambda path: scores[path], reverse=True)


def _none_whole(directory: pathlib.Path, refused: Mapping[pathlib.Path, str]) -> str:
    reasons = "; ".join(f"{path.name}: {reason}" for path, reason in refused.items())
    return (
        f"no checkpoint in {directory} can be used ({reasons}): "
        "repair them, or use another --workdir."
    )


def _one_line(error: Exception) -> str:
    """Returns the first 200 characters of an error on one line, without a closing full stop."""
    kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())[:200].rstrip(".") or type(error).__name__


def _true_everywhere(flag: bool) -> bool:
    """Returns whether `flag` is true on every process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def _wait_for_all_processes(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _quieten_orbax() -> None:
    """Removes Orbax's progress reports (dozens of lines per save) from the log; keeps warnings."""
    logging.get_absl_logger().addFilter(_not_orbax_progress)


def _not_orbax_progress(record: std_logging.LogRecord) -> bool:
    return record.levelno >= std_logging.WARNING or "/orbax/" not in record.pathname
