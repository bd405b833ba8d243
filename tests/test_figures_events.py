"""What is read back from event files is what was written last."""

import io
import subprocess
import sys

import numpy as np
import pytest
from event_files import STEPS, TAGS, write_curves, writing
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util

from iecl_jax.run import events

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_curves(path)
    return path


def test_every_scalar_comes_back(workdir):
    scalars = events.read(workdir).scalars
    assert set(scalars) == set(TAGS)
    for number, tag in enumerate(TAGS):
        np.testing.assert_array_equal(scalars[tag].steps, STEPS)
        wanted = np.float32([0.5 + number + step / 100 for step in STEPS])
        np.testing.assert_array_equal(scalars[tag].values, wanted.astype(np.float64))


def test_of_each_image_the_newest_comes_back(tmp_path):
    with writing(tmp_path) as writer:
        for step, grey in ((20, 50), (40, 90), (30, 70)):
            writer.write_images(step, {"gallery": np.full((1, 4, 6, 3), grey, np.uint8)})
    step, png = events.read(tmp_path).pictures["gallery"]
    assert step == 40
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    np.testing.assert_array_equal(picture, np.full((4, 6, 3), 90))


def test_a_resumed_run_is_one_run_and_the_last_written_wins(tmp_path):
    for values in ({10: 1.0, 20: 2.0, 30: 3.0}, {20: 20.0, 30: 30.0, 40: 40.0}):
        with writing(tmp_path) as writer:
            for step, value in values.items():
                writer.write_scalars(step, {"loss": value})
    first, second = sorted(tmp_path.glob("events.*"))
    curve = events.read(tmp_path).scalars["loss"]
    np.testing.assert_array_equal(curve.steps, [10, 20, 30, 40])
    np.testing.assert_array_equal(curve.values, [1, 20, 30, 40])
    second.rename(first.with_name(first.name + ".0"))  # whatever the order of their names
    first.rename(first.with_name(first.name + ".1"))
    np.testing.assert_array_equal(events.read(tmp_path).scalars["loss"].values, [1, 20, 30, 40])


@pytest.mark.parametrize("end", ["cut off", "garbage", "zeros"])
def test_a_broken_end_is_left_out(workdir, tmp_path, end):
    (path,) = workdir.glob("events.*")
    content = path.read_bytes()
    copy = tmp_path / path.name
    if end == "cut off":
        copy.write_bytes(content[:-10])
        assert set(events.read(tmp_path).pictures) == {"gallery"}  # the last record was the other
    else:
        tail = (5).to_bytes(8, "little") + b"\xff" * 13 if end == "garbage" else bytes(100)
        copy.write_bytes(content + tail)
        assert events.read(tmp_path).pictures == events.read(workdir).pictures
    assert set(events.read(tmp_path).scalars) == set(TAGS)


def test_values_that_are_not_finite_and_of_other_types_come_back(tmp_path):
    with writing(tmp_path) as writer:
        values = (np.float64(0.1), np.int64(7), float("nan"), np.float32(np.inf))
        for step, value in enumerate(values):
            writer.write_scalars(step, {"mixed": value})
    mixed = events.read(tmp_path).scalars["mixed"].values
    np.testing.assert_array_equal(mixed, [np.float32(0.1), 7, np.nan, np.inf])


def test_another_writers_integers_come_back(tmp_path):
    event = Event(wall_time=1.0, step=5)
    tensor = tensor_util.make_tensor_proto(np.int32(7))
    tensor.ClearField("int_val")
    tensor.tensor_content = np.int32(7).tobytes()
    value = event.summary.value.add(tag="integer", tensor=tensor)
    value.metadata.plugin_data.plugin_name = "scalars"
    event.summary.value.add(tag="simple", simple_value=2.5)
    record = event.SerializeToString()
    content = len(record).to_bytes(8, "little") + bytes(4) + record + bytes(4)
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    scalars = events.read(tmp_path).scalars
    assert [float(scalars[tag].values[0]) for tag in ("integer", "simple")] == [7, 2.5]


def test_no_event_files_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"has no event files \(events\.out\.tfevents\.\*\): name"):
        events.read(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        events.read(tmp_path / "nowhere")


def test_reading_needs_no_tensorflow():
    code = "import sys, iecl_jax.tools.figures.report; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
