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
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils

from iecl_jax import config as config_lib
from iecl_jax.config import paths
from iecl_jax.data import files
from iecl_jax.run import distributed, foreign, seal, stored

_UNFINISHED = (".orbax-checkpoint-tmp", ".deleting")
_EVALUATION_FIELDS = ("step", "params", "method_state")


class SaveError(ValueError):
    """Raised if a checkpoint cannot be written, for example to a full disk."""


class Restored(NamedTuple):
    """A checkpoint, as `Checkpointer.restore` returns it.

    Attributes:
      step: number of steps taken.
      state: the saved tree.
      position: index of the next batch in the data stream.
      stopped: True if the evaluations due at its step are not done.
      facts: what else `save` was told.
      config: the config of the run that saved it, with today's keys.
    """

    step: int
    state: Any
    position: int
    stopped: bool
    facts: dict[str, Any]
    config: ml_collections.ConfigDict


class Checkpointer:
    """Saves and restores the checkpoints of one run.

    Every process makes a Checkpointer and calls its methods in the same order. A checkpoint that no
    setting keeps is removed when the next save starts or at `close`, never before a newer one is
    whole. Until `open` or the first `save`, nothing on the disk changes.

    Args:
      workdir: directory of the run, shared by all processes.
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
        self._refused: dict[pathlib.Path, str] = {}
        self._opened, self._saving = False, 0
        # Orbax reports a failure to make directories in the background only after 5 minutes.
        options = ocp.AsyncOptions(create_directories_asynchronously=False)
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                composite_options=ocp.CompositeOptions(async_options=options)
            ),
            async_options=options,
        )

    def open(self) -> None:
        """Makes the folder, removes unfinished saves, and sets aside what `restore` refused."""
        if self._opened:
            return
        self._opened = True
        if jax.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            for path in self._directory.iterdir():
                if any(suffix in path.name for suffix in _UNFINISHED):
                    shutil.rmtree(path)
        self._set_aside()
        _wait_for_all_processes("checkpoint:open")

    def save(
        self,
        step: int,
        state: Any,
        *,
        position: int,
        metrics: Mapping[str, float] | None = None,
        stopped: bool = False,
        facts: Mapping[str, Any] | None = None,
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
            `keep_best`. Later ones are given to `measured`.
          stopped: see `Restored`.
          facts: further JSON values, see `Restored`.
          wait: if True, returns only when the checkpoint is whole.

        Raises:
          SaveError: the previous save failed (with `wait`, this one), or this one cannot begin.
        """
        self.open()
        self._finish()
        if (self._directory / str(step)).exists():
            return
        leaves = seal.host_leaves(state)
        records = {
            "data": {**(facts or {}), "step": step, "position": position, "stopped": stopped},
            "config": self._config,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        }
        arrays = {tuple(path.split("/")): leaf for path, leaf in leaves.items() if leaf.size}
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(traverse_util.unflatten_dict(arrays)),
            seal=ocp.args.JsonSave(seal.make(leaves, records)),
            **{name: ocp.args.JsonSave(record) for name, record in records.items()},
        )
        self._saving = step
        with self._telling_failures():
            self._orbax.save(self._directory / str(step), args=items)
        if wait:
            self._finish()

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a saved step, whose evaluations are now done.

        Raises:
          SaveError: the save of that step failed.
        """
        self._finish()
        path = self._directory / str(step)
        if jax.process_index() == 0 and path.is_dir():
            scores = {name: float(value) for name, value in metrics.items()}
            with files.open_whole(path / stored.SCORES, "w") as file:
                json.dump({"scores": scores, "digest": seal.digest_json(scores)}, file)

    def restore(
        self, template: Any, check: Callable[[int, Any, Mapping[str, Any]], None] | None = None
    ) -> Restored | None:
        """Returns the newest whole checkpoint, bit for bit, placed like `template`.

        A newer checkpoint that is damaged or does not fit is passed over; `open` logs it and
        renames it to STEP.refused, so that its step can be saved again. It is never removed.

        Args:
          template: a freshly initialised state: arrays, or `jax.ShapeDtypeStruct`s with a sharding.
          check: called with step, config and facts of a checkpoint; raises ValueError if the run
            must not continue from it.

        Returns:
          The checkpoint, or None if there is none.

        Raises:
          ValueError: `check` raised it, or there are checkpoints, but none is whole and fits
            `template`.
        """
        self._orbax.wait_until_finished()
        wanted = seal.types(seal.paths_and_leaves(template))
        refused: dict[pathlib.Path, str] = {}
        for path in stored.newest_first(self._directory):
            leaves: dict[str, np.ndarray] = {}
            facts: dict[str, Any] = {}
            reason = ""
            try:
                sealed, records = stored.read_records(path)
                step, config, facts = stored.step_config_facts(records)
            except Exception as error:
                reason = stored.one_line(error)
            if check is not None and not reason:
                check(step, config, facts)
            try:
                if not reason:
                    seal.check_fits(sealed, wanted)
                    leaves = stored.read_leaves(path, sealed)
            except Exception as error:
                reason = stored.one_line(error)
            # All processes must take the same checkpoint, so all must be able to read it.
            if _true_everywhere(not reason):
                self._refused = refused
                state, position = _place(leaves, template), facts["position"]
                stopped = facts.get("stopped", False) and stored.scores(path) is None
                return Restored(step, state, position, stopped, facts, config)
            refused[path] = reason or "another process cannot read it"
        if refused:
            raise ValueError(stored.none_whole(self._directory, refused, "use another --workdir"))
        return None

    def earlier(self) -> tuple[int, ml_collections.ConfigDict, dict[str, Any]] | None:
        """Returns step, config and facts of the newest checkpoint with whole records, or None."""
        for path in stored.newest_first(self._directory):
            with contextlib.suppress(Exception):
                return stored.step_config_facts(stored.read_records(path)[1])
        return None

    def newest(self) -> int | None:
        """Waits for the current save, then returns the newest checkpoint's step, or None.

        Raises:
          SaveError: the current save failed.
        """
        self._finish()
        found = stored.newest_first(self._directory)
        return int(found[0].name) if found else None

    def close(self) -> None:
        """Waits for the last save, raises its error if it failed, and removes old checkpoints."""
        self._finish()
        self._orbax.close()

    def _finish(self) -> None:
        """Waits for the current save, then removes the checkpoints that no `keep` setting keeps."""
        with self._telling_failures():
            self._orbax.wait_until_finished()
        if jax.process_index() != 0:
            return
        paths = stored.newest_first(self._directory)
        kept = {*paths[: self._keep], *stored.best_first(paths)[: self._keep_best]}
        if self._keep_every:
            kept |= {path for path in paths if int(path.name) % self._keep_every == 0}
        for path in paths:
            if path not in kept:
                # Renamed before it is deleted, so that a kill leaves no half checkpoint under STEP.
                doomed = path.with_name(path.name + ".deleting")
                path.rename(doomed)
                shutil.rmtree(doomed)

    @contextlib.contextmanager
    def _telling_failures(self) -> Iterator[None]:
        """Turns any error of the save under way into a SaveError, and removes what it left."""
        try:
            yield
        except Exception as error:
            if distributed.of_a_peer(error):
                raise
            failed, whole = self._saving, stored.newest_first(self._directory)
            if jax.process_index() == 0:
                for path in self._directory.glob(f"{failed}{_UNFINISHED[0]}*"):
                    shutil.rmtree(path, ignore_errors=True)
            kept = f"that of step {whole[0].name} is whole" if whole else "there is none yet"
            raise SaveError(
                f"the checkpoint of step {failed} cannot be written into {self._directory} "
                f"({_reason(error)}); {kept}. Make room or repair the folder: the same command "
                "goes on from there."
            ) from error

    def _set_aside(self) -> None:
        """Renames refused checkpoints to STEP.refused, or STEP.refused+ if that is taken."""
        for path, reason in self._refused.items() if jax.process_index() == 0 else ():
            aside = path.with_name(path.name + ".refused")
            while aside.exists():
                aside = aside.with_name(aside.name + "+")
            path.rename(aside)
            logging.warning("%s is refused and renamed to %s: %s.", path, aside.name, reason)


def load_for_evaluation(
    path: str | os.PathLike, step: int | None = None, *, best: bool = False
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """Returns the config and the weights of a checkpoint, without the optimizer's state.

    Args:
      path: a WORKDIR, one checkpoint WORKDIR/checkpoints/STEP, or a file of weights (see
        `foreign.load`), of which only the encoder is known.
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
    if foreign.is_foreign(path):
        if best:
            raise ValueError(f"best=True chooses a checkpoint of a run, and {path} is a file.")
        return foreign.load(path)
    if path.name.isdigit() and path.parent.name == "checkpoints":
        if best:
            raise ValueError(
                f"best=True chooses a checkpoint of a run, and {path} is one already: take it out."
            )
        directory, found = path.parent, [path] if path.is_dir() else []
    else:
        directory = path / "checkpoints"
        found = stored.newest_first(directory)
        if step is not None:
            found = [path for path in found if path.name == str(step)]
        elif best:
            found = stored.best_first(found)
    refused: dict[pathlib.Path, str] = {}
    for candidate in found:
        try:
            sealed, records = stored.read_records(candidate)
            leaves = stored.read_leaves(candidate, sealed, fields=_EVALUATION_FIELDS)
        except Exception as error:
            refused[candidate] = stored.one_line(error)
            continue
        for damaged, reason in refused.items():
            logging.warning("%s is refused: %s.", damaged, reason)
        nested = traverse_util.unflatten_dict({tuple(k.split("/")): v for k, v in leaves.items()})
        config = config_lib.from_json(json.dumps(records["config"]))
        return config, {"params": {}, "method_state": {}} | nested
    if refused:
        raise ValueError(stored.none_whole(directory, refused, "name another run or checkpoint"))
    scored = f" with a {stored.BEST_METRIC}" if best else ""
    wanted = scored if step is None else f" of step {step}"
    raise ValueError(
        f"there is no checkpoint{wanted} in {path}: give a WORKDIR or WORKDIR/checkpoints/STEP."
    )


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


def _true_everywhere(flag: bool) -> bool:
    """Returns whether `flag` is true on every process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array(flag)).all())


def _wait_for_all_processes(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _reason(error: Exception) -> str:
    """Returns what the system said, if it is in the error, and else the error on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    found = re.search(r": ([^:]*) \[os_error_code", str(error))
    return found.group(1) if found else stored.one_line(error)


def _quieten_orbax() -> None:
    """Keeps only the warnings of Orbax: it reports progress in dozens of lines per save.

    It also logs a traceback in each of its threads when a save fails, and so do TensorStore's
    writes that are still under way then. The failure itself is raised, and told as a SaveError.
    """
    logging.get_absl_logger().addFilter(_not_of_orbax)
    if getattr(sys.unraisablehook, "next", None) is None:
        sys.unraisablehook = _QuietHook(sys.unraisablehook)


class _QuietHook:
    """Passes on what `sys.unraisablehook` gets, without what a failed save leaves behind."""

    def __init__(self, following: Callable[[Any], Any]):
        self.next = following

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.next(unraisable)


def _not_of_orbax(record: std_logging.LogRecord) -> bool:
    return record.levelno == std_logging.WARNING or "/orbax/" not in record.pathname
