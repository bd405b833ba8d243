"""The detection job: what it reads and refuses, its trivial predictor, and runs."""

import json

import numpy as np
import pytest

from iecl_jax.config import section
from iecl_jax.configs import voc_detection
from iecl_jax.data.voc import generated
from iecl_jax.evals import detection
from iecl_jax.evals.parts import jobs

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


def config(**changes):
    found = voc_detection.get_config("smoke")
    found.update_from_flattened_dict(changes)
    return found


# ---------------------------------------------------------------- what is read


def test_images_and_boxes_are_read_together():
    """A disk is where its box says, whatever the scale and the mirroring."""
    tree = generated.open_tree(split="train")
    settings = section.defaults(detection.Job)
    settings.update({"image_size": 64, "scale": (0.4, 1.0), "max_objects": 6})
    again = detection.read(tree, settings, 3, 4, 5, 2)
    for name, value in detection.read(tree, settings, 3, 4, 5, 2).items():
        np.testing.assert_array_equal(value, again[name])
    others = [detection.read(tree, settings, *at) for at in ((4, 4, 5, 2), (3, 4, 6, 2))]
    assert all((each["image"] != again["image"]).any() for each in others)
    for index in range(16):
        row = detection.read(tree, settings, 3, index, 5, 2)
        objects = tree.objects(index)
        count, (height, width) = len(objects.labels), row["shown"]
        assert row["image"].shape == (64, 64, 3)
        padding = np.concatenate([row["image"][height:].reshape(-1, 3), [[0, 0, 0]]])
        assert (padding[:-1] == padding[0]).all()  # of one colour
        np.testing.assert_array_equal(row["present"], np.arange(6) < count)
        np.testing.assert_array_equal(row["labels"][:count], objects.labels)
        assert not row["boxes"][count:].any()
        assert (row["boxes"][:, 2:] <= (width, height)).all()
        by = np.array([width, height]) / tree.sizes[index][::-1]
        sizes = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * by
        found = row["boxes"][:count]
        np.testing.assert_allclose(found[:, 2:] - found[:, :2], sizes, rtol=1e-4)


def test_difficult_objects_may_be_left_out():
    tree = generated.open_tree(split="train")
    index = next(i for i in range(64) if tree.objects(i).difficult.any())
    settings = section.defaults(detection.Job)
    settings.update({"image_size": 64, "train_difficult": False})
    row = detection.read(tree, settings, 0, index, 0, 0)
    easy = ~tree.objects(index).difficult
    assert row["present"].sum() == easy.sum()
    np.testing.assert_array_equal(row["labels"][row["present"]], tree.objects(index).labels[easy])


def test_the_trivial_detections_are_the_whole_images():
    tree = generated.open_tree(split="test")
    found = detection.trivial(tree)
    assert len(found) == len(tree)
    for each, (height, width) in zip(found, tree.sizes, strict=True):
        np.testing.assert_array_equal(each.boxes, [[0, 0, width, height]] * 4)
        np.testing.assert_array_equal(each.labels, range(4))


# ---------------------------------------------------------------- the job


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data.generated": False}, r"config.data.dir is empty: name a folder"),
        ({"detection.batch_size": 5}, r"detection.batch_size=5 must be a multiple"),
        ({"detection.image_size": 100}, r"detection.image_size=100 must be a multiple of the 32"),
        ({"detection.anchor_sizes": (8.0, 16.0)}, r"detection.anchor_sizes=\(8.0, 16.0\) must be"),
        ({"detection.max_objects": 2}, r"max_objects=2 is less than the \d objects of the image"),
        ({"detection.scale": (0.5, 2.0)}, r"detection.scale=\(0.5, 2.0\) must be"),
        ({"data.box_origin": "coco"}, r"data.box_origin='coco' is unknown"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        jobs.run(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_job_runs_to_its_end(tmp_path, precision):
    results = jobs.run(config(**{"detection.precision": precision}), str(tmp_path))
    metrics = results["metrics"]
    assert results["steps"] == 4
    assert set(detection.RESULTS) <= set(metrics)
    assert set(metrics["ap"]) <= set(generated.CLASSES)
    assert 0 <= metrics["map"] < metrics["map_trivial"] + 0.2
    losses = [metrics[f"{name}_loss"] for name in ("objectness", "rpn_box", "class", "box")]
    np.testing.assert_allclose(sum(losses), metrics["loss"], rtol=1e-3)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    [folder] = tmp_path.glob("training-*")
    for name in detection.PICTURES:
        assert [path.name for path in (folder / name).iterdir()] == ["00000004.png"]
