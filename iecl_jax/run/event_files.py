"""Reads TensorBoard's event files, and cuts them off where a run resumes, without TensorFlow."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util import tensor_util

from iecl_jax.data import files
from iecl_jax.run import names


def read(
    workdir: str | os.PathLike,
) -> tuple[dict[str, dict[int, float]], dict[str, tuple[int, bytes]]]:
    """Reads all event files of a WORKDIR as one run, with the names that its numbers have now.

    If a resumed run took a step again, the value written last counts. A file may end in the middle
    of a record, because its run was killed or still writes: it is read up to there.

    Returns:
      ({name: {step: number}}, {name: (step, PNG) of the newest picture}).
    """
    scalars: dict[str, dict[int, tuple[float, float]]] = {}
    newest: dict[str, tuple[int, float, bytes]] = {}
    for path in _event_files(workdir):
        for event, _ in records(path):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                name = names.from_tensorboard(value.tag)
                if plugin == "scalars" or value.HasField("simple_value"):
                    at = scalars.setdefault(name, {})
                    if event.wall_time >= at.get(event.step, (0.0, 0.0))[0]:
                        at[event.step] = event.wall_time, _number(value)
                elif plugin == "images":
                    when = event.step, event.wall_time
                    if when >= newest.get(name, (-1, 0.0))[:2]:
                        # The tensor holds width, height and the PNG.
                        newest[name] = *when, tensor_util.make_ndarray(value.tensor)[2]
    numbers = {
        name: {step: value for step, (_, value) in at.items()} for name, at in scalars.items()
    }
    return numbers, {name: (step, png) for name, (step, _, png) in newest.items()}


def cut(workdir: str | os.PathLike, step: int) -> None:
    """Removes what was written for later steps than `step` from a WORKDIR's event files.

    A run that was killed takes these steps again. TensorBoard would draw both, as a zigzag.
    """
    for left in Path(workdir).glob(f".{names.EVENT_FILES}"):  # by a kill in the block below
        left.unlink()
    for path in _event_files(workdir):
        kept, complete = [], True
        for event, record in records(path):
            if event.step <= step:
                kept.append(record)
            else:
                complete = False
        if not complete:
            with files.open_whole(path) as file:
                file.writelines(kept)


def _event_files(workdir: str | os.PathLike) -> list[Path]:
    return sorted(Path(workdir).glob(names.EVENT_FILES))


def _number(value: Summary.Value) -> float:
    if value.HasField("simple_value"):
        return value.simple_value
    content = value.tensor.tensor_content
    if (
        value.tensor.dtype == DT_FLOAT and len(content) == 4
    ):  # The usual case, without building an array.
        return struct.unpack("<f", content)[0]
    return float(tensor_util.make_ndarray(value.tensor))


def records(path: Path) -> Iterator[tuple[Event, bytes]]:
    """Yields each event of a file and its bytes.

    A record is a uint64 length, its checksum, data, their checksum.
    """
    with path.open("rb") as file:
        left = path.stat().st_size
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack_from("<Q", header)
            left -= 12 + length + 4
            if left < 0:
                return
            content = file.read(length + 4)
            try:
                yield Event.FromString(content[:length]), header + content
            except DecodeError:
                return
