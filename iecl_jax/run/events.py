"""Reads a run's TensorBoard curves and pictures back, without TensorFlow."""

import os
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util import tensor_util


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
    """Reads all event files of a WORKDIR as one run.

    If a resumed run took a step again, the value written last counts. A file may end in the middle
    of a record, because its run was killed or still writes: it is read up to there.

    Raises:
      ValueError: there are no event files.
    """
    workdir = pathlib.Path(workdir)
    paths = sorted(workdir.glob("events.out.tfevents.*"))
    if not paths:
        raise ValueError(
            f"{workdir} has no event files (events.out.tfevents.*): name the workdir of a run."
        )
    scalars: dict[str, dict[int, tuple[float, float]]] = {}
    newest: dict[str, tuple[int, float, bytes]] = {}
    for path in paths:
        for event in _events(path):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                if plugin == "scalars" or value.HasField("simple_value"):
                    at = scalars.setdefault(value.tag, {})
                    if event.wall_time >= at.get(event.step, (0.0, 0.0))[0]:
                        at[event.step] = event.wall_time, _number(value)
                elif plugin == "images":
                    when = event.step, event.wall_time
                    if when >= newest.get(value.tag, (-1, 0.0))[:2]:
                        png = tensor_util.make_ndarray(value.tensor)[
                            2
                        ]  # The tensor holds width, height and the PNG.
                        newest[value.tag] = *when, png
    return Events(
        {tag: _curve(at) for tag, at in sorted(scalars.items())},
        {tag: Picture(step, png) for tag, (step, _, png) in sorted(newest.items())},
    )


def _number(value: Summary.Value) -> float:
    if value.HasField("simple_value"):
        return value.simple_value
    content = value.tensor.tensor_content
    if (
        value.tensor.dtype == DT_FLOAT and len(content) == 4
    ):  # The usual case, without building an array.
        return struct.unpack("<f", content)[0]
    return float(tensor_util.make_ndarray(value.tensor))


def _curve(at: dict[int, tuple[float, float]]) -> Curve:
    steps = sorted(at)
    return Curve(np.array(steps, np.int64), np.array([at[step][1] for step in steps], np.float64))


def _events(path: pathlib.Path) -> Iterator[Event]:
    """Yields the records of a file; each is a uint64 length, its checksum, data, their checksum."""
    with path.open("rb") as file:
        left = path.stat().st_size
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", header)
            left -= 12 + length + 4
            if left < 0:
                return
            try:
                yield Event.FromString(file.read(length + 4)[:length])
            except DecodeError:
                return
