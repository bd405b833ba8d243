import matplotlib.colors
import numpy as np
import pytest

from iecl_jax.data.voc.annotation import Objects
from iecl_jax.evals.measures import average_precision
from iecl_jax.evals.measures.average_precision import Detections
from iecl_jax.evals.pictures import dense, style

pytestmark = pytest.mark.quick

NAMES = ("cat", "$a$ dog", "a class with a very long name that does not fit below a picture")
IMAGE = np.full((30, 45, 3), 128, np.uint8)


def _has(picture, colour):
    return (np.abs(picture.astype(int) - np.array(colour)).max(axis=-1) <= 3).any()


def _frame(picture, colour):
    return _has(picture, [round(255 * x) for x in matplotlib.colors.to_rgb(colour)])


def test_masks_show_each_class_and_what_is_ignored():
    truth = np.zeros(IMAGE.shape[:2], np.uint8)
    truth[5:20, 5:20], truth[5:20, 25:40], truth[25:28] = 1, 3, 255
    predicted = np.where(truth == 3, 2, 0)
    palette = dense.colours(3)
    over = [np.rint(0.45 * 128 + 0.55 * colour) for colour in palette]
    picture = dense.masks([dense.Segmented(IMAGE, truth, predicted)] * 2, NAMES)
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 3 * 280
    left, middle, right = np.array_split(picture[30:200], 3, axis=1)
    assert not any(_has(left, colour) for colour in (*over, *palette))
    assert [_has(middle, colour) for colour in over] == [True, False, True]
    assert [_has(right, colour) for colour in over] == [False, True, False]
    # The ignored row is white from the left edge of the picture to its right edge.
    assert (middle == 255).all(axis=-1).sum() > (right == 255).all(axis=-1).sum() + 1000


def test_colours_differ_and_none_is_grey():
    found = dense.colours(254)
    assert len(np.unique(found, axis=0)) > 250
    assert np.ptp(found.astype(int), axis=1).min() > 60
    first = dense.colours(20).astype(int)
    distance = np.abs(first[:, None] - first).max(axis=-1) + 255 * np.eye(20, dtype=int)
    assert distance.min() > 25


def _objects(*boxes, difficult=()):
    hard = np.zeros(len(boxes), bool)
    hard[list(difficult)] = True
    labels = np.arange(len(boxes), dtype=np.int32) % 3
    return Objects(np.array(boxes, np.float32).reshape(-1, 4), labels, hard)


def test_boxes_are_coloured_by_what_they_are():
    truth = _objects((2, 2, 20, 20), (22, 2, 40, 20), difficult=[1])
    boxes = np.array([(2, 2, 20, 21), (22, 2, 40, 20), (0, 10, 45, 30), (0, 0, 9, 9)], np.float32)
    found = Detections(boxes, np.array([0, 1, 2, 0]), np.array([0.9, 0.8, 0.7, 0.4], np.float32))

    def drawn(count, least=0.5):
        kept = Detections(*(each[:count] for each in found))
        picture = dense.boxes([dense.Detected(IMAGE, truth, kept)], NAMES, least=least)
        left, right = np.array_split(picture[30:], 2, axis=1)
        assert _frame(left, style.GREEN)
        assert not _frame(left, style.BLUE)
        return [_frame(right, colour) for colour in (style.BLUE, style.RED)]

    assert drawn(0) == [False, False]
    assert drawn(2) == [True, False]
    assert drawn(3) == [True, True]
    assert drawn(4) == [True, True]
    only = Detections(*(each[3:] for each in found))
    picture = dense.boxes([dense.Detected(IMAGE, truth, only)], NAMES)
    assert not _frame(picture[30:], style.RED)


def test_an_image_without_objects():
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0))
    picture = dense.boxes([dense.Detected(IMAGE, _objects(), nothing)], NAMES)
    assert not any(_frame(picture[30:], c) for c in (style.GREEN, style.BLUE, style.RED))


def test_boxes_at_the_edge_and_of_no_width():
    truth = _objects((0, 0, 45, 30), (44, 29, 45, 30), (10, 10, 10, 10))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0))
    assert _frame(dense.boxes([dense.Detected(IMAGE, truth, nothing)], NAMES), style.GREEN)


def test_curves_leave_out_classes_without_objects():
    truth = [_objects((2, 2, 20, 20), (22, 2, 40, 20))]
    found = [Detections(truth[0].boxes[:1], truth[0].labels[:1], np.ones(1, np.float32))]
    three = average_precision.voc_curves(truth, found, 3)
    with style.context():
        figure = dense.curves(three, NAMES, "Precision")
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == ["cat 100 %", "$a$ dog 0 %"]
        assert style.picture(figure).std() > 0
        many = dense.curves([three[0]] * 50, [str(k) for k in range(50)], "Precision")
        assert len(many.axes) == dense.MOST_CURVES
        style.picture(dense.curves(three[2:], NAMES[2:], "Nothing"))


def test_bars():
    values = {NAMES[0]: 0.25, NAMES[1]: 0.75, NAMES[2]: float("nan")}
    with style.context():
        figure = dense.bars(values, "IoU", "%")
        [axes] = figure.axes
        assert [text.get_text() for text in axes.get_yticklabels()] == ["$a$ dog", "cat"]
        assert [patch.get_width() for patch in axes.patches] == [75, 25]
        assert style.picture(figure).std() > 0
        style.picture(dense.bars({"cat": float("nan")}, "IoU", "%"))
        many = dense.bars({str(k): k / 100 for k in range(60)}, "IoU", "%")
        assert len(many.axes[0].patches) == dense.MOST_BARS
