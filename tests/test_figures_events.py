"""The log of a run, as text and for TensorBoard: what is read back is what was written last."""

import io
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from event_files import STEPS, TAGS, only_event_files, write_curves, writing
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util

from iecl_jax import config as config_lib
from iecl_jax.run import events, metrics_file, names, summaries
from iecl_jax.run.writer import Writer

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    write_curves(path)
    return path


@pytest.fixture(params=["text", "event files"])
def either(request, workdir, tmp_path):
    """The run as it is, and as an earlier revision left it."""
    if request.param == "text":
        return workdir
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    return only_event_files(copy)


def test_every_scalar_comes_back(either):
    scalars = events.read(either).scalars
    assert set(scalars) == set(TAGS)
    for number, tag in enumerate(TAGS):
        np.testing.assert_array_equal(scalars[tag].steps, STEPS)
        wanted = [0.5 + number + step / 100 for step in STEPS]
        np.testing.assert_allclose(scalars[tag].values, wanted, rtol=1e-6)


def test_both_pictures_come_back(either):
    assert {name: found.step for name, found in events.read(either).pictures.items()} == {
        "gallery": 30,
        "jacobian_spectrum": 30,
    }


@pytest.mark.parametrize("old", [False, True])
def test_of_each_image_the_newest_comes_back(tmp_path, old):
    with writing(tmp_path) as writer:
        writer.write_scalars(20, {"train/loss": 1.0})
        for step, grey in ((20, 50), (40, 90), (30, 70)):
            writer.write_images(step, {"gallery": np.full((4, 6, 3), grey, np.uint8)})
    step, png = events.read(only_event_files(tmp_path) if old else tmp_path).pictures["gallery"]
    assert step == 40
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    np.testing.assert_array_equal(picture, np.full((4, 6, 3), 90))


def in_tensorboard(workdir, tag):
    """The curve that TensorBoard draws."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    found.Reload()
    return [
        (each.step, float(tensor_util.make_ndarray(each.tensor_proto)))
        for each in found.Tensors(tag)
    ]


def test_a_run_that_was_killed_and_resumed_has_one_curve(tmp_path):
    """Steps 30 and 40 were after the checkpoint; the second process takes them again."""
    with writing(tmp_path) as writer:
        for step in (10, 20, 30, 40):
            writer.write_scalars(step, {"train/loss": float(step)})
            writer.write_images(step, {"gallery": np.zeros((4, 4, 3), np.uint8)})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "train/lo')
    # Files of one second sort by a counter of this process, 10 before 9; a resumed run is later.
    time.sleep(1)
    with writing(tmp_path, step=20) as writer:
        # The evaluations of the last step before the stop come again too.
        writer.write_scalars(20, {"eval/knn_top1": 0.5})
        for step in (30, 40):
            writer.write_scalars(step, {"train/loss": float(step)})
    wanted = [(step, float(step)) for step in (10, 20, 30, 40)]
    assert in_tensorboard(tmp_path, "1_train/loss") == wanted
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[1] == {"step": 20, "train/loss": 20.0, "eval/knn_top1": 0.5}
    assert [(line["step"], line["train/loss"]) for line in lines] == wanted
    only_event_files(tmp_path)
    curve = events.read(tmp_path).scalars["train/loss"]
    assert list(zip(curve.steps, curve.values)) == wanted


def test_a_resumed_run_of_an_earlier_revision_keeps_its_curves(tmp_path):
    with writing(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write_scalars(step, {"train/loss": 0.5, "norm/conv": float(step)})
    with writing(only_event_files(tmp_path), step=20) as writer:
        writer.write_scalars(30, {"train/loss": 0.25})
    scalars = events.read(tmp_path).scalars
    assert scalars["train/loss"].values.tolist() == [0.5, 0.5, 0.25]
    assert scalars["norm/conv"].steps.tolist() == [10, 20]


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
        assert set(events.read(tmp_path).pictures) == {"gallery", "jacobian_spectrum"}
    assert set(events.read(tmp_path).scalars) == set(TAGS)


@pytest.mark.parametrize("old", [False, True])
def test_values_that_are_not_finite_and_of_other_types_come_back(tmp_path, old):
    with writing(tmp_path) as writer:
        values = (np.float64(0.5), np.int64(7), float("nan"), np.float32(np.inf))
        for step, value in enumerate(values):
            writer.write_scalars(step, {"mixed": value})
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [line["mixed"] for line in lines] == [0.5, 7, None, None]
    found = events.read(only_event_files(tmp_path) if old else tmp_path).scalars["mixed"].values
    np.testing.assert_array_equal(found, [0.5, 7, np.nan, np.inf if old else np.nan])


def test_in_tensorboard_what_matters_comes_first_and_every_name_comes_back():
    tags = {name: names.number_in_tensorboard(name) for name in TAGS}
    first = ["1_train/loss", "2_eval/knn_top1", "2_eval/online_probe_top1", "3_details/entropy"]
    assert sorted(tags.values())[:4] == first
    assert tags["conv_matrix_norm/stem"] == "5_layers/conv_matrix_norm/stem"
    others = ("probe/loss", "eval/comparison/raw_pixels/knn_top1")
    tags |= {name: names.number_in_tensorboard(name) for name in others}
    assert tags[others[1]] == "6_tables/comparison/raw_pixels/knn_top1"
    for name, tag in tags.items():
        assert names.from_tensorboard(tag) == name
        assert names.from_tensorboard(name) == name  # the tag of an earlier revision
    for name in ("gallery", "jacobian_spectrum", "another"):
        assert names.from_tensorboard(names.picture_in_tensorboard(name)) == name


def test_tensorboard_has_the_settings_as_text_and_as_hyperparameters(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    config = config_lib.new()
    summaries.create_writer(tmp_path, config=config).close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    (text,) = found.Tensors("settings")
    table = tensor_util.make_ndarray(text.tensor_proto)[()].decode()
    assert "| `optimizer.learning_rate` " in table
    plugin = found.SummaryMetadata("_hparams_/session_start_info").plugin_data
    parsed = metadata.parse_session_start_info_plugin_data(plugin.content)
    assert parsed.hparams["optimizer.learning_rate"].number_value == 0.3
    assert parsed.hparams["saib.enabled"].bool_value is True
    assert parsed.hparams["eval.names"].string_value.startswith("('knn'")


class Recorded:
    """Stands for clu's writer: it notes the calls, of which those at step 3 fail."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, method):
        def call(*arguments):
            if arguments[:1] == (3,):
                raise OSError("no space left")
            self.calls.append((method, *arguments[:1]))

        return call


@pytest.fixture
def opened(monkeypatch):
    """The writers that `EventFiles` opened instead of clu's."""
    found = []

    def open_another(*_):
        found.append(Recorded())
        return found[-1]

    monkeypatch.setattr(summaries, "_open_with_clu", open_another)
    return found


def test_event_files_wait_for_the_first_number_and_then_keep_the_order(tmp_path, opened):
    writer = summaries.EventFiles(tmp_path, 0, None)
    writer.flush()
    assert not opened
    for step in (1, 2):
        writer.write_scalars(step, {"train/loss": 1.0})
        writer.write_images(step, {"gallery": np.zeros((4, 4, 3), np.uint8)})
    writer.flush()
    writer.close()
    (only,) = opened
    pairs = [(f"write_{what}", step) for step in (1, 2) for what in ("scalars", "images")]
    assert only.calls == [*pairs, ("flush",), ("close",)]


def test_what_fails_in_the_thread_is_one_warning(tmp_path, opened, caplog):
    both = summaries.Summaries([summaries.EventFiles(tmp_path, 0, None)])
    for step in (2, 3, 4):
        both.write_scalars(step, {"train/loss": 1.0})
    for _ in range(2):
        both.flush()
    both.close()
    assert caplog.text.count("EventFiles ends here, and the run goes on without: no space") == 1
    assert opened[0].calls[0] == ("write_scalars", 2)


def test_a_place_that_fails_is_left_out_with_a_warning(tmp_path, caplog):
    class Full(Writer):
        def write_scalars(self, step, scalars):
            raise OSError("no space left")

    file = metrics_file.MetricsFile(tmp_path, 0)
    both = summaries.Summaries([Full(), file])
    for step in (1, 2):
        both.write_scalars(step, {"train/loss": 1.0})
    both.close()
    assert caplog.text.count("Full ends here, and the run goes on without: no space left") == 1
    assert [line["step"] for line in metrics_file.read(tmp_path)] == [1, 2]


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
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl and no event files .*: name the"):
        events.read(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        events.read(tmp_path / "nowhere")


def test_reading_needs_no_tensorflow():
    code = "import sys, iecl_jax.tools.figures.report; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
