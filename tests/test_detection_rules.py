"""The rules of the detector against loops in float64 and against arrays of torchvision.

detection_reference.npz was made by torchvision 0.29.1 with torch 2.14.1.
"""

import functools
import pathlib

import detection_loops as loops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient

from iecl_jax.losses import detection as losses
from iecl_jax.models.detection import assign, boxes
from iecl_jax.models.detection.anchors import grid_anchors
from iecl_jax.models.detection.nms import nms
from iecl_jax.models.detection.roi_align import levels, pyramid_roi_align, roi_align
from iecl_jax.models.detection.rpn import propose

pytestmark = pytest.mark.quick

encode, decode = (jax.jit(fn, static_argnums=2) for fn in (boxes.encode, boxes.decode))
iou, suppress = jax.jit(boxes.iou), jax.jit(nms, static_argnums=3)
RPN, ROI = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parent / "detection_reference.npz") as file:
        return dict(file)


def random_boxes(rng, count, size=100.0):
    """float32 [count, 4] inside of a canvas of 1.5 x size."""
    low = rng.uniform(0, size, (count, 2))
    return np.float32(np.concatenate([low, low + rng.uniform(1, size / 2, (count, 2))], axis=1))


# ---------------------------------------------------------------- boxes and anchors


def test_overlaps_are_torchvisions(golden):
    a, b = golden["nms_boxes"][:20], golden["nms_boxes"][20:50]
    expected = [[loops.iou(x, y) for y in np.float64(b)] for x in np.float64(a)]
    got = iou(a, b)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got, golden["iou"], rtol=1e-5, atol=1e-7)


def test_boxes_without_area_overlap_nothing():
    found = iou(jnp.zeros((2, 4)), jnp.array([[0.0, 0, 0, 5], [0, 0, 4, 4]]))
    np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("weights", [RPN, ROI])
def test_coding_of_boxes(weights):
    rng = np.random.default_rng(0)
    own, anchors = random_boxes(rng, 20), random_boxes(rng, 20)
    own[0, 2] = own[0, 0]  # of no width: finite
    anchors[1, 3] = anchors[1, 1]
    got = encode(own, anchors, weights)
    rows = zip(np.float64(own), np.float64(anchors), strict=True)
    expected = [loops.encode(x, anchor, weights) for x, anchor in rows]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)

    deltas = np.float32(rng.normal(size=(20, 4)) * np.array([1, 1, 20, 20]))  # many are clamped
    got = decode(deltas, anchors, weights)
    rows = zip(np.float64(deltas), np.float64(anchors), strict=True)
    expected = [loops.decode(d, anchor, weights) for d, anchor in rows]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    assert (deltas[:, 2:] / weights[2] > boxes.LARGEST_SCALE).any()

    back = decode(encode(own[2:], anchors[2:], weights), anchors[2:], weights)
    np.testing.assert_allclose(back, own[2:], rtol=1e-4, atol=1e-4)


def test_coding_is_torchvisions(golden):
    own, anchors = golden["nms_boxes"][:30], golden["nms_boxes"][30:60]
    got = encode(own, anchors, ROI)
    np.testing.assert_allclose(got, golden["coder_encoded"], rtol=1e-4, atol=1e-4)
    of_classes = np.repeat(anchors[:, None], 2, axis=1)
    got = decode(golden["coder_rel"].reshape(30, 2, 4), of_classes, ROI)
    expected = golden["coder_decoded"].reshape(30, 2, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_clipping_and_least_size():
    some = jnp.array([[-5.0, -1, 30, 20], [2, 3, 2.5, 9], [40, 2, 60, 9]])
    clipped = boxes.clip(some, jnp.array([10.0, 25.0]))
    np.testing.assert_array_equal(clipped, [[0, 0, 25, 10], [2, 3, 2.5, 9], [25, 2, 25, 9]])
    np.testing.assert_array_equal(boxes.reaches(clipped, 1.0), [True, False, False])
    np.testing.assert_array_equal(boxes.area(clipped), [250, 3, 0])


def test_anchors_are_torchvisions(golden):
    """Also where the canvas is smaller than the largest anchor."""
    features = ((8, 12), (4, 6), (2, 3))
    rows = zip(features, (32.0, 64.0, 128.0), strict=True)
    got = [grid_anchors(feature, (64, 96), size, (0.5, 1.0, 2.0)) for feature, size in rows]
    np.testing.assert_array_equal(np.concatenate(got), golden["anchors"])


# ---------------------------------------------------------------- suppression


def test_suppression_is_torchvisions(golden):
    own, scores = golden["nms_boxes"], golden["nms_scores"]
    everything = np.ones(len(scores), bool)
    order = np.argsort(-scores, kind="stable")
    for threshold in (0.5, 0.7):
        kept = np.asarray(suppress(own, scores, everything, threshold))
        np.testing.assert_array_equal(
            order[kept[order]], golden[f"nms_keep_{round(threshold * 100)}"]
        )
    each = [suppress(own, scores, golden["nms_classes"] == c, 0.5) for c in range(5)]
    kept = np.any(each, axis=0)
    np.testing.assert_array_equal(order[kept[order]], golden["nms_keep_per_class_50"])


@pytest.mark.parametrize("seed", range(4))
def test_suppression_is_greedy(seed):
    rng = np.random.default_rng(seed)
    own, scores = random_boxes(rng, 60, size=20.0), np.float32(rng.permutation(60))
    scores[:10] = 30  # ties: the first counts as higher
    valid = rng.random(60) < 0.8
    kept = suppress(own, scores, valid, 0.3)
    expected = loops.nms(np.float64(own), scores, valid, 0.3)
    np.testing.assert_array_equal(np.flatnonzero(kept), np.sort(expected))
    assert len(expected) < valid.sum() - 10


def test_a_suppressed_box_suppresses_nothing():
    """A chain A > B > C ...: each overlaps the next one only, so every second one is kept."""
    low = np.arange(9, dtype=np.float32) * 5
    chain = np.stack([low, 0 * low, low + 10, 0 * low + 10], axis=1)
    scores = np.linspace(1, 0.1, 9, dtype=np.float32)
    everything = np.ones(9, bool)
    kept = suppress(chain, scores, everything, 0.3)
    np.testing.assert_array_equal(kept, np.arange(9) % 2 == 0)
    without_first = suppress(chain, scores, jnp.arange(9) > 0, 0.3)
    np.testing.assert_array_equal(without_first, np.arange(9) % 2 == 1)


# ---------------------------------------------------------------- RoIAlign


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, 0])
def test_roi_align_is_torchvisions(golden, aligned, ratio):
    align = functools.partial(
        roi_align, output_size=7, scale=1 / 8, sampling_ratio=ratio, aligned=aligned
    )
    own = golden["roi_boxes"]
    features = jnp.asarray(golden["roi_feature"].transpose(0, 2, 3, 1))
    got = jax.jit(jax.vmap(align))(features, jnp.stack([own[:, 1:]] * 2))
    got = np.asarray(got)[own[:, 0].astype(int), np.arange(len(own))].transpose(0, 3, 1, 2)
    expected = golden[f"roi_aligned{int(aligned)}_sampling{ratio}"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [3, 0])
def test_roi_align_at_the_border(aligned, ratio):
    rng = np.random.default_rng(1)
    feature = rng.normal(size=(6, 8))
    own = np.float32(
        [
            [0, 0, 32, 24],  # the whole canvas
            [-9, -5, 12, 7],  # samples more than a cell outside
            [27, 20, 40, 30],
            [31.5, 23.5, 32, 24],  # less than a cell
            [5, 6, 5, 9],  # of no width
        ]
    )
    align = functools.partial(
        roi_align, output_size=2, scale=0.25, sampling_ratio=ratio, aligned=aligned
    )
    got = jax.jit(align)(jnp.asarray(feature[..., None], jnp.float32), own)[..., 0]
    expected = [loops.roi_align(feature, box, 2, 0.25, ratio, aligned) for box in np.float64(own)]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_box_is_taken_from_its_own_level(golden):
    level = jax.jit(functools.partial(levels, lowest=2, highest=5))(golden["level_boxes"])
    np.testing.assert_array_equal(level - 2, golden["levels"])

    pyramid = [np.full((256 >> k, 256 >> k, 1), k, np.float32) for k in (2, 3, 4, 5)]
    own = np.float32([[9, 9, 29, 29], [0, 0, 120, 120], [0, 0, 250, 250], [5, 5, 5, 5]])
    align = functools.partial(
        pyramid_roi_align, canvas=256, output_size=2, sampling_ratio=2, aligned=False
    )
    got = jax.jit(align)(tuple(map(jnp.asarray, pyramid)), own)
    np.testing.assert_allclose(got[:, 0, 0, 0], [2, 3, 4, 2], rtol=1e-6)


# ---------------------------------------------------------------- matching and drawing


def test_matching_is_torchvisions(golden):
    truths, anchors = golden["match_gt"], golden["anchors"]
    # Rows of padding must change nothing; an image may be nothing else.
    padded = jnp.concatenate([jnp.zeros((1, 4)), truths, jnp.zeros((2, 4))])
    present = jnp.array([False, True, True, True, False, False])
    overlaps = iou(padded, anchors)
    for name, limits, low_quality in (
        ("match_rpn", (0.7, 0.3), True),
        ("match_roi", (0.5, 0.5), False),
    ):
        fn = functools.partial(
            assign.match, foreground=limits[0], background=limits[1], low_quality=low_quality
        )
        got = np.asarray(jax.jit(fn)(overlaps, present))
        np.testing.assert_array_equal(np.where(got < 0, got, got - 1), golden[name])
        nothing = jax.jit(fn)(overlaps, jnp.zeros(6, bool))
        np.testing.assert_array_equal(nothing, assign.BELOW)


@pytest.mark.parametrize("low_quality", [False, True])
def test_matching_is_that_of_a_loop(low_quality):
    rng = np.random.default_rng(2)
    truths = np.round(random_boxes(rng, 6, size=30.0))  # whole pixels, so that overlaps are equal
    truths[1] = truths[0]
    truths[2, 2] = truths[2, 0]  # of no width: matches nothing
    own = np.round(random_boxes(rng, 80, size=30.0))
    own[40:60] = own[:20]
    present = np.array([True, True, True, True, False, True])
    fn = functools.partial(assign.match, foreground=0.7, background=0.3, low_quality=low_quality)
    got = jax.jit(fn)(iou(truths, own), present)
    expected = loops.match(np.float64(truths), present, np.float64(own), 0.7, 0.3, low_quality)
    np.testing.assert_array_equal(got, expected)
    assert ((np.asarray(got) >= 0).sum() > 0) == low_quality


@pytest.mark.parametrize(
    "positives, negatives, counts",
    [(3, 50, (3, 13)), (20, 50, (8, 8)), (20, 2, (8, 2)), (0, 50, (0, 16)), (0, 0, (0, 0))],
)
def test_drawn_boxes_are_balanced(positives, negatives, counts):
    place = np.random.default_rng(0).permutation(80)
    positive = np.isin(np.arange(80), place[:positives])
    negative = np.isin(np.arange(80), place[positives : positives + negatives])
    fn = jax.jit(functools.partial(assign.sample, size=16, share=0.5))
    seen = set()
    for seed in range(3):
        drawn = jax.tree.map(np.asarray, fn(jax.random.key(seed), positive, negative))
        own = drawn.indices[drawn.counted]
        assert len(set(own.tolist())) == len(own) == sum(counts)
        assert positive[drawn.indices[drawn.positive]].all()
        assert negative[drawn.indices[drawn.counted & ~drawn.positive]].all()
        assert (drawn.positive.sum(), (drawn.counted & ~drawn.positive).sum()) == counts
        seen.add(tuple(sorted(own)))
    assert len(seen) == 1 + 2 * (positives + negatives > 20)


def test_all_boxes_are_drawn_if_the_sample_has_room():
    positive = jnp.arange(10) < 4
    drawn = assign.sample(jax.random.key(0), positive, ~positive, size=16, share=1.0)
    assert sorted(np.asarray(drawn.indices)[np.asarray(drawn.counted)]) == list(range(10))
    assert drawn.positive.sum() == 4


# ---------------------------------------------------------------- proposals


def test_proposals_are_torchvisions(golden):
    """Deltas of 0 lead from the boxes of the reference to themselves."""
    splits = np.cumsum([288, 72])
    own = np.split(golden["filter_boxes"][0], splits)
    logits = [jnp.asarray(each) for each in np.split(golden["filter_logits"][0], splits)]
    deltas = [jnp.zeros_like(each) for each in own]
    fn = functools.partial(propose, before_nms=50, after_nms=40, threshold=0.7)
    found, values, valid = jax.jit(lambda x, d: fn(x, d, own, jnp.array([64.0, 96.0])))(
        logits, deltas
    )
    assert valid.all()
    np.testing.assert_allclose(found, golden["filter_out_boxes"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(jax.nn.sigmoid(values), golden["filter_out_scores"], rtol=1e-5)


def test_missing_proposals_fill_up():
    own = [np.float32([[0, 0, 9, 9], [40, 0, 49, 9], [0, 0, 9, 10]])]
    outside = jnp.array([20.0, 30.0])  # the second box is outside of the image
    found, _, valid = propose(
        [jnp.array([0.0, 3.0, 2.0])],
        [jnp.zeros((3, 4))],
        own,
        outside,
        before_nms=9,
        after_nms=5,
        threshold=0.7,
    )
    np.testing.assert_array_equal(valid, [True, False, False, False, False])
    np.testing.assert_allclose(found[0], [0, 0, 9, 10])
    assert found.shape == (5, 4)


# ---------------------------------------------------------------- losses


def test_smooth_l1_is_torchvisions(golden):
    x, y = (np.append(golden[name], [0, 0]).reshape(-1, 4) for name in ("sl1_x", "sl1_y"))
    got = losses.smooth_l1(jnp.float32(x), jnp.float32(y), jnp.ones(len(x), bool), beta=1 / 9)
    np.testing.assert_allclose(got, golden["sl1_sum"], rtol=1e-5)


LOSSES = {
    "smooth_l1": ((6, 4), lambda rng: rng.normal(size=(6, 4)), {"beta": 0.3}),
    "binary_cross_entropy": ((6,), lambda rng: rng.random(6) < 0.5, {}),
    "cross_entropy": ((6, 5), lambda rng: rng.integers(5, size=6).astype(np.int32), {}),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_their_gradients(name):
    shape, targets, settings = LOSSES[name]
    rng = np.random.default_rng(3)
    x, target = rng.normal(size=shape), targets(rng)
    counted = np.array([True, True, False, True, False, True])

    def reference(x):
        return getattr(loops, name)(x, target, counted, *settings.values())

    given = jnp.asarray(target, jnp.float32) if target.dtype == float else jnp.asarray(target)
    fn = jax.jit(jax.value_and_grad(functools.partial(getattr(losses, name), **settings)))
    value, gradient = fn(jnp.asarray(x, jnp.float32), given, counted)
    np.testing.assert_allclose(value, reference(x), rtol=1e-5)
    np.testing.assert_allclose(gradient, numeric_gradient(reference, x), rtol=1e-4, atol=1e-5)
    assert (np.asarray(gradient)[~counted] == 0).all()
