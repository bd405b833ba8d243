import collections
import itertools
import math

import numpy as np
import pytest

from iecl_jax.data.voc.annotation import Objects
from iecl_jax.evals.measures import average_precision as ap
from iecl_jax.evals.measures.average_precision import Detections

pytestmark = pytest.mark.quick

NUM_CLASSES = 4


def _boxes(rng, count, whole=True):
    low = rng.integers(0, 60, (count, 2))
    size = rng.integers(8, 40, (count, 2))
    boxes = np.concatenate([low, low + size], axis=1).astype(np.float32)
    return boxes if whole else boxes + rng.random((count, 4), np.float32)


def scene(seed, images=25, num_classes=NUM_CLASSES):
    """Objects and detections: some near an object, some anywhere; all scores differ."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for number in range(images):
        count = 0 if number % 5 == 0 else int(rng.integers(1, 7))
        boxes = _boxes(rng, count)
        labels = rng.integers(0, num_classes, count).astype(np.int32)
        truth.append(Objects(boxes, labels, rng.random(count) < 0.25))
        near = np.repeat(boxes, 3, axis=0)
        near = (near + rng.normal(0, 4, near.shape)).astype(np.float32)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guessed = np.concatenate([near, _boxes(rng, 4, whole=False)])
        classes = np.concatenate([np.repeat(labels, 3), rng.integers(0, num_classes, 4)])
        scores = rng.permutation(len(guessed)).astype(np.float32) / 100 + number / 10_000
        found.append(Detections(guessed, classes.astype(np.int32), scores))
    return truth, found


def naive_iou(a, b, plus=0.0):
    width = min(a[2], b[2]) - max(a[0], b[0]) + plus
    height = min(a[3], b[3]) - max(a[1], b[1]) + plus
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x[2] - x[0] + plus) * (x[3] - x[1] + plus) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def naive_voc(truth, found, label, threshold, plus=0.0):
    """(list of right or wrong by falling score, number of objects), one detection at a time."""
    positives = sum(
        1
        for true in truth
        for i in range(len(true.labels))
        if true.labels[i] == label and not true.difficult[i]
    )
    every = [
        (float(seen.scores[i]), image, [float(x) for x in seen.boxes[i]])
        for image, seen in enumerate(found)
        for i in range(len(seen.labels))
        if seen.labels[i] == label
    ]
    taken, marks = set(), []
    for _, image, box in sorted(every, key=lambda each: -each[0]):
        true, best, which = truth[image], -math.inf, None
        for i in range(len(true.labels)):
            if true.labels[i] != label:
                continue
            overlap = naive_iou(box, [float(x) for x in true.boxes[i]], plus)
            if overlap > best:
                best, which = overlap, i
        if best >= threshold and which is not None:
            if true.difficult[which]:
                continue
            marks.append((image, which) not in taken)
            taken.add((image, which))
        else:
            marks.append(False)
    return marks, positives


def naive_points(marks, positives):
    """(recall, precision) after each detection."""
    right, points = 0, []
    for number, mark in enumerate(marks, 1):
        right += mark
        points.append((right / positives, right / number))
    return points


def naive_area(marks, positives):
    """The area below the highest precision at each recall or a higher one."""
    total, before, points = 0.0, 0.0, naive_points(marks, positives)
    for i, (recall, _) in enumerate(points):
        total += (recall - before) * max(precision for _, precision in points[i:])
        before = recall
    return total


def naive_eleven(marks, positives):
    points = naive_points(marks, positives)
    total = 0.0
    for tenth in range(11):
        total += max((p for r, p in points if r >= tenth / 10 - 1e-12), default=0.0)
    return total / 11


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", [0, 1])
def test_voc_against_a_loop(seed, threshold, inclusive):
    truth, found = scene(seed)
    by_area = ap.voc(truth, found, NUM_CLASSES, threshold=threshold, inclusive=inclusive)
    by_points = ap.voc(
        truth,
        found,
        NUM_CLASSES,
        threshold=threshold,
        inclusive=inclusive,
        measure=ap.eleven_points,
    )
    assert by_area.shape == (NUM_CLASSES,)
    assert by_area.dtype == np.float64
    for label in range(NUM_CLASSES):
        reference = naive_voc(truth, found, label, threshold, float(inclusive))
        assert by_area[label] == pytest.approx(naive_area(*reference), abs=1e-12)
        assert by_points[label] == pytest.approx(naive_eleven(*reference), abs=1e-12)


def test_inclusive_pixels_are_the_shifted_origin():
    """VOCdevkit's own rule, of corners from 1 that both lie inside, is that of "voc" boxes."""
    truth, found = scene(3)
    shift = np.array([1, 1, 0, 0], np.float32)
    counted = [true._replace(boxes=true.boxes + shift) for true in truth]
    written = [seen._replace(boxes=seen.boxes + shift) for seen in found]
    np.testing.assert_allclose(
        ap.voc(counted, written, NUM_CLASSES, inclusive=True), ap.voc(truth, found, NUM_CLASSES)
    )


def _image(boxes, difficult=None, label=0):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    hard = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult)
    return Objects(boxes, np.full(len(boxes), label, np.int32), hard)


def _found(*scored, label=0):
    boxes = np.array([box for _, box in scored], np.float32).reshape(-1, 4)
    scores = np.array([score for score, _ in scored], np.float32)
    return Detections(boxes, np.full(len(boxes), label, np.int32), scores)


A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)
NOWHERE = (80, 80, 90, 90)


def test_by_hand():
    """Four objects; by falling score right, wrong, right, again (wrong), right; one is missed.

    Recall .25, .25, .5, .5, .75 and precision 1, 1/2, 2/3, 1/2, 3/5, so the envelope is
    1, 2/3, 2/3, 3/5, 3/5.
    """
    truth = [_image([A, B]), _image([A, C])]
    found = [
        _found((0.9, A), (0.7, B), (0.6, (0, 0, 10, 9))),
        _found((0.8, NOWHERE), (0.5, C)),
    ]
    [curve] = ap.voc_curves(truth, found, 1)
    np.testing.assert_allclose(curve.recall, [0.25, 0.25, 0.5, 0.5, 0.75])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 1 / 2, 3 / 5])
    np.testing.assert_allclose(curve.envelope, [1, 2 / 3, 2 / 3, 3 / 5, 3 / 5])
    # The area: .25 * 1 + .25 * 2/3 + .25 * 3/5.
    assert ap.area(curve) == pytest.approx(0.25 * (1 + 2 / 3 + 3 / 5))
    # Recalls 0, .1, .2: 1; .3, .4, .5: 2/3; .6, .7: 3/5; .8, .9, 1: 0.
    assert ap.eleven_points(curve) == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)
    # At 101 recalls: 0 to .25, .26 to .5, .51 to .75.
    scores = ap.coco(truth, found, 1)
    assert scores["AP50"] == pytest.approx((26 * 1 + 25 * 2 / 3 + 25 * 3 / 5) / 101)


def test_recall_of_exactly_three_tenths():
    """3 of 10 reaches the recall 0.3, although 0.1 + 0.1 + 0.1 is more than 0.3."""
    boxes = [(20 * i, 0, 20 * i + 10, 10) for i in range(10)]
    found = [_found(*((1 - i / 10, boxes[i]) for i in range(3)))]
    [curve] = ap.voc_curves([_image(boxes)], found, 1)
    assert ap.eleven_points(curve) == pytest.approx(4 / 11)


def test_a_difficult_object_is_neither_right_nor_wrong():
    truth = [_image([A, B], difficult=[True, False])]
    found = [_found((0.9, A), (0.8, A), (0.7, B))]
    [curve] = ap.voc_curves(truth, found, 1)
    np.testing.assert_array_equal(curve.right, [1])
    assert ap.area(curve) == 1
    assert ap.coco(truth, found, 1) == {"AP": 1, "AP50": 1, "AP75": 1}


def test_all_objects_are_difficult():
    truth, found = [_image([A, B], difficult=[True, True])], [_found((0.9, A), (0.8, NOWHERE))]
    assert np.isnan(ap.voc(truth, found, 2)).all()
    assert np.isnan(ap.voc(truth, found, 2, measure=ap.eleven_points)).all()
    assert all(map(math.isnan, ap.coco(truth, found, 2).values()))


def test_a_class_without_objects_is_left_out():
    truth, found = [_image([A])], [_found((0.9, A))]
    np.testing.assert_array_equal(ap.voc(truth, found, 3), [1, np.nan, np.nan])
    assert ap.mean(ap.voc(truth, found, 3)) == 1
    assert ap.coco(truth, found, 3)["AP"] == 1


def test_nothing_is_found():
    truth, found = [_image([A]), _image([])], [_found(), _found()]
    assert ap.voc(truth, found, 1) == 0
    assert ap.voc(truth, found, 1, measure=ap.eleven_points) == 0
    assert ap.coco(truth, found, 1) == {"AP": 0, "AP50": 0, "AP75": 0}


def test_an_image_without_objects_has_only_wrong_ones():
    truth, found = [_image([]), _image([A])], [_found((0.9, A)), _found((0.8, A))]
    assert ap.voc(truth, found, 1) == 0.5


def test_boxes_without_width_overlap_nothing():
    flat = (5, 0, 5, 10)
    assert ap.iou(np.array([flat, A]), np.array([flat, A])).tolist() == [[0, 0], [0, 1]]
    truth, found = [_image([A])], [_found((0.9, flat), (0.8, A))]
    assert ap.voc(truth, found, 1) == 0.5
    assert ap.coco(truth, found, 1)["AP"] == pytest.approx(0.5)


def test_an_overlap_of_exactly_the_threshold_is_enough():
    truth, found = [_image([(0, 0, 10, 10)])], [_found((0.9, (0, 0, 10, 5)))]
    assert ap.voc(truth, found, 1) == 1
    assert ap.coco(truth, found, 1)["AP50"] == 1


def test_voc_takes_the_largest_overlap_and_coco_a_free_object():
    """Two detections of one object; the second also overlaps a neighbour enough for COCO."""
    truth = [_image([(0, 0, 10, 10), (2, 0, 12, 10)])]
    found = [_found((0.9, (0, 0, 10, 10)), (0.8, (0.5, 0, 10.5, 10)))]
    assert ap.voc(truth, found, 1) == 0.5
    assert ap.coco(truth, found, 1)["AP50"] == 1


def naive_coco(truth, found, label, threshold):
    """The precision at 101 recalls, one detection and one object at a time."""
    marks, positives = [], 0
    for image, true in enumerate(truth):
        own = [i for i in range(len(true.labels)) if true.labels[i] == label]
        positives += sum(not true.difficult[i] for i in own)
        seen = found[image]
        mine = [i for i in range(len(seen.labels)) if seen.labels[i] == label]
        taken = set()
        for i in sorted(mine, key=lambda i: -seen.scores[i])[:100]:
            overlaps = collections.defaultdict(list)
            for j in own:
                overlap = naive_iou(seen.boxes[i].tolist(), true.boxes[j].tolist())
                if true.difficult[j]:
                    a, b = seen.boxes[i].tolist(), true.boxes[j].tolist()
                    width, height = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
                    overlap = max(width, 0) * max(height, 0) / ((a[2] - a[0]) * (a[3] - a[1]))
                if overlap >= threshold and j not in taken:
                    overlaps[bool(true.difficult[j])].append((overlap, j))
            if overlaps[False]:
                taken.add(max(overlaps[False])[1])
                marks.append((float(seen.scores[i]), True))
            elif not overlaps[True]:
                marks.append((float(seen.scores[i]), False))
    points = naive_points([mark for _, mark in sorted(marks, key=lambda m: -m[0])], positives)
    reached = [  # at the float64 recalls of pycocotools, as some equal the recalls reached
        max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)
    ]
    return sum(reached) / 101


@pytest.mark.parametrize("seed", [4, 5])
def test_coco_against_a_loop(seed):
    truth, found = scene(seed)
    expected = np.array(
        [
            [naive_coco(truth, found, label, threshold) for label in range(NUM_CLASSES)]
            for threshold in np.arange(50, 100, 5) / 100
        ]
    )
    got = ap.coco(truth, found, NUM_CLASSES)
    assert got["AP"] == pytest.approx(expected.mean(), abs=1e-9)
    assert got["AP50"] == pytest.approx(expected[0].mean(), abs=1e-9)
    assert got["AP75"] == pytest.approx(expected[5].mean(), abs=1e-9)


def _live(truth, found, num_classes):
    """The scores of pycocotools, in which difficult objects are crowds."""
    coco, cocoeval = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    numbers = itertools.count(1)

    def record(box, label, image, **more):
        x, y, x2, y2 = (float(value) for value in box)
        sides = {"bbox": [x, y, x2 - x, y2 - y], "area": (x2 - x) * (y2 - y)}
        return {**sides, "category_id": int(label), "image_id": image, "id": next(numbers), **more}

    reference, guesses = coco.COCO(), coco.COCO()
    images = [{"id": image} for image in range(len(truth))]
    categories = [{"id": label} for label in range(num_classes)]
    reference.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            record(box, label, image, iscrowd=int(hard))
            for image, true in enumerate(truth)
            for box, label, hard in zip(*true)
        ],
    }
    guesses.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            record(box, label, image, iscrowd=0, score=float(score))
            for image, seen in enumerate(found)
            for box, label, score in zip(*seen)
        ],
    }
    reference.createIndex()
    guesses.createIndex()
    evaluation = cocoeval.COCOeval(reference, guesses, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(("AP", "AP50", "AP75"), evaluation.stats.tolist()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_coco_against_pycocotools(seed):
    truth, found = scene(100 + seed, images=40)
    if seed == 0:  # more detections in an image than count
        rng = np.random.default_rng(0)
        found[1] = Detections(
            _boxes(rng, 500, whole=False),
            rng.integers(0, 2, 500).astype(np.int32),
            rng.permutation(500).astype(np.float32) / 700,
        )
    assert ap.coco(truth, found, NUM_CLASSES) == pytest.approx(
        _live(truth, found, NUM_CLASSES), abs=1e-9
    )
