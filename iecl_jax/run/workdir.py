"""The JSON files of a WORKDIR: `config.json`, `provenance.json` and `results.json`.

Every file is written to a temporary name and then renamed, so a killed process never leaves half a
file. Only process 0 writes.
"""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

import iecl_jax
from iecl_jax import config as config_lib
from iecl_jax.config import own_files
from iecl_jax.data import files
from iecl_jax.run.continuity import why_fixed

_PACKAGES = (
    "jax jaxlib flax optax orbax-checkpoint grain tensorflow-datasets clu matfree numpy".split()  # noqa: SIM905
)
_DIFFERENCES_SHOWN = 5
_OF_IMAGES = ("name", "dir", "image_size")  # settings that results.json repeats
# Settings that change how fast images are read and nothing of what they are: each start may differ.
_FREE = ("data.cache:", "data.num_threads:", "data.num_workers:", "data.prefetch:")


def prepare(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    *,
    command: list[str],
    allow_change: bool,
) -> None:
    """Checks the WORKDIR of a start that needs no further check, and records the start there.

    Args:
      workdir, config, command: see `record`.
      allow_change: see `changes`.

    Raises:
      ValueError: see `changes`.
    """
    changed = changes(workdir, config, allow_change=allow_change)
    record(workdir, config, command=command, changed=changed)


def changes(
    workdir: str | os.PathLike, config: ml_collections.ConfigDict, *, allow_change: bool
) -> list[str]:
    """Returns "key: old -> new" for each setting that differs from the run in WORKDIR.

    Args:
      workdir: the directory; it may be absent.
      config: the whole config of this start.
      allow_change: whether the config may differ.

    Raises:
      ValueError: WORKDIR belongs to a run with another config, besides what is _FREE, or a file in
        it is not JSON.
    """
    old = read_config(workdir)
    _read_starts(workdir)
    changed = _differences(config if old is None else old, config)
    others = _bound(changed)
    if others and not allow_change:
        more = len(others) - _DIFFERENCES_SHOWN
        shown = ", ".join(others[:_DIFFERENCES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        fixed = config.get("job") == "pretrain" and any(
            why_fixed(each.split(":")[0]) for each in others
        )
        way_out = "" if fixed else ", or --allow_config_change to go on with the new values"
        raise ValueError(
            f"{workdir} belongs to a run with another config ({shown}): "
            f"use another --workdir{way_out}."
        )
    return changed


def record(
    workdir: str | os.PathLike,
    config: ml_collections.ConfigDict,
    *,
    command: list[str],
    changed: list[str],
    images: Mapping[str, Any] | None = None,
) -> None:
    """Makes WORKDIR, writes `config.json`, and appends this start to `provenance.json`.

    It is called when nothing can refuse the start any more, so that a refused start leaves WORKDIR
    as it was.

    `provenance.json` lists the starts of the run, oldest first. Each has "time" (UTC, ISO 8601),
    "command", "git" ({"revision", "dirty"} of the repository that tracks this package, or null),
    "python", "versions", "device", "num_processes", "threads" (cores that this process may use),
    "config_changes" (a list of "key: old -> new" where this start replaced the config), and
    "images" (what identifies the training images, for a pretraining).

    Args:
      workdir: the directory; it and its parents are made if absent.
      config: the whole config of the run.
      command: the words of the command line.
      changed: what `changes` returned.
      images: see `data.Split.identity`.
    """
    if jax.process_index() != 0:
        return
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    for folder in (workdir, *(path for path in workdir.iterdir() if path.is_dir())):
        files.remove_scratch(folder)
    starts = _read_starts(workdir)
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        **software(),
        "device": device_description(),
        "num_processes": jax.process_count(),
        "threads": threads(),
        "config_changes": changed,
    } | ({"images": dict(images)} if images else {})
    if starts:
        _tell_differences(starts[-1], start)
    starts.append(start)
    write_atomically(workdir / "provenance.json", json.dumps(starts, indent=2))
    write_atomically(workdir / "config.json", config_lib.to_json(config))


def write_results(
    workdir: str | os.PathLike,
    *,
    job: str,
    metrics: Mapping[str, Any],
    steps: int,
    seconds: float,
    images_per_second: float,
    seed: int,
    data: Mapping[str, Any],
    params_digest: str,
) -> dict[str, Any]:
    """Writes WORKDIR/results.json, replacing an earlier one, and returns what was written.

    Args:
      workdir: an existing directory.
      job: `config.job`.
      metrics: numbers by name, or nested mappings and sequences of numbers; arrays become lists.
      steps: number of optimizer steps taken.
      seconds: wall time of the job, of all its starts, each up to its last checkpoint.
      images_per_second: training images per second of wall time, over all devices.
      seed: `config.seed`.
      data: the settings of the images; "name", "dir" and "image_size" are written if it has them.
      params_digest: `seal.digest(state.params)`.

    Returns:
      The arguments by name, "device" (from `device_description`) and "versions" (from `versions`).
      A number that is not finite becomes None (JSON null).
    """
    results = plain(
        {
            "job": job,
            "metrics": metrics,
            "steps": steps,
            "seconds": seconds,
            "images_per_second": images_per_second,
            "seed": seed,
            "data": {name: data[name] for name in _OF_IMAGES if name in data},
            "params_digest": params_digest,
            "device": device_description(),
            "versions": versions(),
        }
    )
    if jax.process_index() == 0:
        write_atomically(pathlib.Path(workdir) / "results.json", json.dumps(results, indent=2))
    return results


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict | None:
    """Returns the config of the run in WORKDIR, with today's keys, or None if there is none.

    Raises:
      ValueError: config.json is damaged.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
        return None
    try:
        return config_lib.from_json(path.read_text())
    except own_files.Foreign:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error} Repair or remove it.") from error


def read_results(workdir: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the content of WORKDIR/results.json, or None if there is none."""
    return _read_json(pathlib.Path(workdir) / "results.json", default=None)


def _tell_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Logs what has changed since the last start that may round sums in another way."""
    names = ("device", "num_processes", "threads", "python")
    pairs = [(name, before.get(name), now[name]) for name in names]
    old = before.get("versions") or {}
    pairs += [(name, old.get(name), version) for name, version in now["versions"].items()]
    different = [f"{name} {a} -> {b}" for name, a, b in pairs if a is not None and a != b]
    if different:
        logging.warning(
            "Since the last start changed: %s. Sums may be rounded differently, so the result may "
            "not be bit for bit that of an unchanged run (docs/topology.md).",
            ", ".join(different),
        )


def _read_starts(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    return _read_json(pathlib.Path(workdir) / "provenance.json", default=[])


def threads() -> int:
    """Returns the number of cores that this process may use, over which XLA's CPU splits sums."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Returns the versions of this package and of each that can change a result.

    None stands for a package that is not installed.
    """
    found: dict[str, str | None] = {"iecl_jax": iecl_jax.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def software() -> dict[str, Any]:
    """Returns {"git", "python", "versions"}: the code that runs."""
    return {"git": git_state(), "python": platform.python_version(), "versions": versions()}


def device_description() -> str:
    """Returns count and kind of all processes' devices, such as "8 x NVIDIA H100 80GB HBM3"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def git_state() -> dict[str, Any] | None:
    """Returns {"revision", "dirty"} of the git repository that tracks this file, or None."""

    def git(*arguments: str) -> str:
        here = pathlib.Path(__file__)
        run = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie inside another project's repository: that one does not count.
        git("ls-files", "--error-unmatch", pathlib.Path(__file__).name)
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def same_run(one: ml_collections.ConfigDict, other: ml_collections.ConfigDict) -> bool:
    """Returns whether two configs give the same results: they differ at most in what is _FREE."""
    return not _bound(_differences(one, other))


def _bound(changed: list[str]) -> list[str]:
    return [change for change in changed if not change.startswith(_FREE)]


def _differences(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> list[str]:
    """Returns "dotted.key: old -> new" (values as JSON) where two configs differ, sorted by key."""
    before, after = (
        {name: json.dumps(value) for name, value in config_lib.leaves(config).items()}
        for config in (old, new)
    )
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def plain(value: Any) -> Any:
    """Converts NumPy and JAX values to JSON types; floats that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain(np.asarray(value).tolist())


def _read_json(path: pathlib.Path, default: Any) -> Any:
    if not path.exists():
        return default
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): repair or remove it.") from error


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Writes a text whole or not at all; its last line gets a newline if it has none."""
    with files.open_whole(path, "w") as file:
        file.write(text.removesuffix("\n") + "\n")
