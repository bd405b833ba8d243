"""Reads the curves and pictures of a run back, without TensorFlow.

The curves are those of metrics.jsonl, the pictures those on the disk. Runs of earlier revisions
have neither: theirs are read from TensorBoard's event files.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iecl_jax.run import metrics_file, names


class Curve(NamedTuple):
    """A scalar over training: steps int64 [n], increasing; values float64 [n], finite or not."""

    steps: np.ndarray
    values: np.ndarray


class Picture(NamedTuple):
    """An image as it was written, and its step."""

    step: int
    png: bytes


class Events(NamedTuple):
    """All scalars and images of a run, by tag; only the newest image of each tag."""

    scalars: dict[str, Curve]
    pictures: dict[str, Picture]


def read(workdir: str | os.PathLike) -> Events:
    """Reads the log of a WORKDIR, and those of what an evaluation trained within the run.

    Raises:
      ValueError: there is no log.
    """
    workdir = Path(workdir)
    inner = [*workdir.glob("probe-*"), *workdir.glob("training-*")]
    found = [_read_folder(path) for path in (workdir, *sorted(inner, key=_age))]
    scalars: dict[str, Curve] = {}
    pictures: dict[str, Picture] = {}
    for each in found:
        scalars |= each.scalars
        pictures |= each.pictures
    if not scalars and not pictures:
        raise ValueError(
            f"{workdir} has no {metrics_file.NAME} and no event files ({names.EVENT_FILES}): "
            "name the workdir of a run."
        )
    return Events(dict(sorted(scalars.items())), dict(sorted(pictures.items())))


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _read_folder(folder: Path) -> Events:
    lines = metrics_file.read(folder)
    if not lines:
        return _read_event_files(folder)
    at: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step":
                at.setdefault(name, {})[line["step"]] = np.nan if value is None else value
    newest = {path.parent.name: path for path in sorted(folder.glob("*/[0-9]*.png"))}
    pictures = {
        name: Picture(int(path.stem), path.read_bytes())
        for name, path in newest.items()
        if path.stem.isdigit()
    }
    return Events({name: _curve(values) for name, values in at.items()}, pictures)


def _read_event_files(folder: Path) -> Events:
    if not any(folder.glob(names.EVENT_FILES)):
        return Events({}, {})
    from iecl_jax.run import event_files  # Needs tensorboard, which the other readers do not.

    scalars, pictures = event_files.read(folder)
    return Events(
        {name: _curve(values) for name, values in scalars.items()},
        {name: Picture(*picture) for name, picture in pictures.items()},
    )


def _curve(at: dict[int, float]) -> Curve:
    steps = sorted(at)
    return Curve(np.array(steps, np.int64), np.array([at[step] for step in steps], np.float64))
