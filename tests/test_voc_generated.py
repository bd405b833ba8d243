import numpy as np
import pytest

from iecl_jax.data.voc import generated

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("split, length", [("train", 64), ("val", 32)])
def test_a_tree(split, length):
    tree = generated.open_tree(split=split, size=48)
    assert len(tree) == len(tree.ids) == length
    counts, difficult = [], 0
    for place in range(length):
        image, mask, objects = tree.image(place), tree.mask(place), tree.objects(place)
        height, width = tree.sizes[place]
        assert max(height, width) == 48
        assert min(height, width) >= 32
        assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
        assert set(np.unique(mask)) <= {0, 255, *(objects.labels + 1)}
        counts.append(len(objects.labels))
        difficult += objects.difficult.sum()
        assert (objects.boxes[:, :2] < objects.boxes[:, 2:]).all()
        assert (objects.boxes >= 0).all()
        assert (objects.boxes <= [width, height, width, height]).all()
    assert {0, 1, 2} <= set(counts)
    assert difficult > 0


def test_mask_and_boxes_agree():
    """Every pixel of a class lies in a box of this class, and a box is no wider than that."""
    single = 0
    for index in range(24):
        drawing = generated.draw(index, 48)
        for label in range(len(generated.CLASSES)):
            rows, columns = np.nonzero(drawing.mask == label + 1)
            boxes = drawing.objects.boxes[drawing.objects.labels == label]
            x1, y1, x2, y2 = boxes.T[:, :, None]
            inside = (x1 <= columns) & (columns < x2) & (y1 <= rows) & (rows < y2)
            assert inside.any(axis=0).all()
            if len(boxes) == 1 and rows.size > 40:
                extent = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                # The ignored border is a pixel wide.
                np.testing.assert_allclose(boxes[0], extent, atol=4)
                single += 1
    assert single > 10


def test_the_same_every_time_and_different_in_each_place():
    first, again = (generated.open_tree(size=32) for _ in range(2))
    assert first.identity == again.identity
    assert first.identity != generated.open_tree(split="val", size=32).identity
    np.testing.assert_array_equal(first.image(3), again.image(3))
    np.testing.assert_array_equal(first.mask(3), again.mask(3))
    different = {first.image(place).tobytes() for place in range(len(first))}
    assert len(different) == len(first)
