import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from iecl_jax.evals.measures import confusion

pytestmark = pytest.mark.quick


def _maps(seed, num_classes=6, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, shape).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = 255
    predicted = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, num_classes, shape))
    return truth, np.where(predicted == 255, 0, predicted).astype(np.int32)


def test_against_scikit_learn():
    images = [_maps(seed, shape=(20 + seed, 31)) for seed in range(4)]
    matrix = sum(confusion.count(*image, 6) for image in images)
    known = [truth != 255 for truth, _ in images]
    truth = np.concatenate([image[0][kept] for image, kept in zip(images, known)])
    predicted = np.concatenate([image[1][kept] for image, kept in zip(images, known)])
    np.testing.assert_array_equal(matrix, confusion_matrix(truth, predicted, labels=range(6)))
    scores = jaccard_score(truth, predicted, average=None)
    np.testing.assert_allclose(confusion.iou(matrix), scores, rtol=1e-12)
    np.testing.assert_allclose(confusion.mean_iou(matrix), scores.mean(), rtol=1e-12)
    np.testing.assert_allclose(
        confusion.pixel_accuracy(matrix), accuracy_score(truth, predicted), rtol=1e-12
    )


def test_by_hand():
    truth = np.array([[0, 0, 1], [1, 255, 3]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 2, 0]])
    matrix = confusion.count(truth, predicted, 5)
    # Class 2 is predicted only at the ignored pixel, so it and class 4 are absent.
    np.testing.assert_allclose(confusion.iou(matrix), [1 / 3, 2 / 3, np.nan, 0, np.nan])
    assert confusion.mean_iou(matrix) == pytest.approx(1 / 3)


def test_a_class_that_is_only_predicted_counts():
    matrix = confusion.count(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]]), 3)
    np.testing.assert_allclose(confusion.iou(matrix), [0.75, 0, np.nan])


def test_only_ignored_pixels():
    matrix = confusion.count(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), int), 3)
    assert not matrix.any()
    assert np.isnan(confusion.iou(matrix)).all()
    assert np.isnan(confusion.mean_iou(matrix))
    assert np.isnan(confusion.pixel_accuracy(matrix))


def test_trivial_predictor():
    truth, predicted = _maps(7)
    truth[:10] = 2
    most = np.full(truth.shape, 2)
    expected = confusion.count(truth, most, 6)
    np.testing.assert_array_equal(confusion.trivial(confusion.count(truth, predicted, 6)), expected)


@pytest.mark.parametrize("truth, predicted", [(6, 0), (0, 6), (0, -1)])
def test_a_number_that_is_no_class(truth, predicted):
    with pytest.raises(ValueError, match="must be in 0 to 5"):
        confusion.count(np.full((1, 1), truth, np.uint8), np.full((1, 1), predicted), 6)


def test_masks_of_different_sizes():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion.count(np.zeros((2, 3), np.uint8), np.zeros((3, 2), int), 6)
