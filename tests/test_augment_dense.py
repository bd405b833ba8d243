"""Images, masks and boxes on a canvas: together, and against the geometry in float64."""

import itertools

import numpy as np
import pytest

from iecl_jax.data.augment import dense

pytestmark = pytest.mark.quick

CANVAS = (48, 64)


def placements(count=40):
    """Random placements of images of random sizes, from a third of the canvas to thrice."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        source = tuple(int(n) for n in generator.integers(20, 150, 2))
        yield dense.drawn(generator, source, CANVAS, scale=(0.3, 3.0))


def origins(at):
    """Where the pixels of the shown part lie in the source, float64 ([h], [w])."""
    y = (np.arange(at.shown[0]) + at.corner[0] + 0.5) * at.source[0] / at.scaled[0]
    x = (np.arange(at.shown[1]) + at.corner[1] + 0.5) * at.source[1] / at.scaled[1]
    return y, x[::-1] if at.flip else x


def test_a_mask_has_the_class_of_the_nearest_pixel():
    generator, shares = np.random.default_rng(1), []
    for at in placements():
        classes = generator.integers(0, 20, at.source).astype(np.uint8)
        got = dense.mask(classes, at, CANVAS, padding=255)
        assert got.shape == CANVAS
        expected = np.full(CANVAS, 255)
        sure = np.ones(CANVAS, bool)  # where rounding cannot decide
        for (i, y), (j, x) in itertools.product(*map(enumerate, origins(at))):
            expected[i, j] = classes[int(y), int(x)]
            sure[i, j] = min(abs(y - round(y)), abs(x - round(x))) > 1e-3
        shares.append(sure.mean())
        np.testing.assert_array_equal(got[sure], expected[sure])
    assert np.mean(shares) > 0.8


def test_an_image_keeps_its_place():
    """A plane stays a plane, so each pixel says where it comes from."""
    for at in placements():
        y, x = np.mgrid[: at.source[0], : at.source[1]] + 0.5
        ramp = np.stack([y, x, 0 * x], -1).astype(np.uint8)
        got = dense.image(ramp, at, CANVAS).astype(float)
        rows, columns = origins(at)
        h, w = at.shown
        inner = np.s_[2 : h - 2, 2 : w - 2]
        wanted = np.stack(np.broadcast_arrays(rows[:, None], columns[None]), -1)
        by = max(at.source[0] / at.scaled[0], at.source[1] / at.scaled[1])
        assert abs(got[:h, :w, :2] - wanted)[inner].max(initial=0) < 1 + by
        mean = got[:h, :w].mean((0, 1))
        assert abs(got[h:] - mean).max(initial=0) <= 0.5 + 1e-6
        assert abs(got[:, w:] - mean).max(initial=0) <= 0.5 + 1e-6


def test_boxes_go_with_their_mask():
    generator = np.random.default_rng(2)
    for at in placements():
        ends = np.sort(generator.integers(0, 1 + np.array([at.source] * 2), (2, 2)), 0)
        (top, left), (bottom, right) = ends
        filled = np.zeros(at.source, np.uint8)
        filled[top:bottom, left:right] = 1
        moved = dense.boxes(np.float32([[left, top, right, bottom]]), at)[0]
        rows, columns = np.nonzero(dense.mask(filled, at, CANVAS, padding=0))
        if len(rows):
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(moved, seen, atol=1.01)
        else:
            assert min(moved[2] - moved[0], moved[3] - moved[1]) <= 1


def test_boxes_come_back():
    generator = np.random.default_rng(3)
    for at in placements():
        low = generator.uniform(0, 1, (5, 2)) * at.shown[::-1]
        high = low + generator.uniform(0, 1, (5, 2)) * (np.array(at.shown[::-1]) - low)
        there = np.concatenate([low, high], 1)
        back = dense.boxes_of_source(there, at)
        np.testing.assert_allclose(dense.boxes(back, at), there, atol=1e-3)
        assert (back[:, :2] <= back[:, 2:] + 1e-4).all()


def test_the_whole_image_fits():
    for source, scaled in (((100, 50), (48, 24)), ((30, 40), (48, 64)), ((1, 500), (1, 64))):
        at = dense.fitted(source, CANVAS)
        assert (at.scaled, at.corner, at.shown, at.flip) == (scaled, (0, 0), scaled, False)
    pixels = np.random.default_rng(0).integers(0, 256, (*CANVAS, 3)).astype(np.uint8)
    np.testing.assert_array_equal(dense.image(pixels, dense.fitted(CANVAS, CANVAS), CANVAS), pixels)


def test_scale_corner_and_flip_are_spread_evenly():
    generator = np.random.default_rng(4)
    found = [dense.drawn(generator, CANVAS, CANVAS, scale=(0.5, 2.0)) for _ in range(2000)]
    scales = np.array([at.scaled[0] / CANVAS[0] for at in found])
    np.testing.assert_allclose(
        np.quantile(scales, [0.02, 0.5, 0.98]), [0.53, 1.25, 1.97], atol=0.05
    )
    assert 0.45 < np.mean([at.flip for at in found]) < 0.55
    large = [at for at in found if at.scaled[0] > 80]
    shares = [at.corner[0] / (at.scaled[0] - CANVAS[0]) for at in large]
    assert 0.45 < np.mean(shares) < 0.55
    assert (min(shares), max(shares)) == (0, 1)
