"""The whole detector on a tiny pyramid: images without objects, padding, devices, precision."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from iecl_jax.config import section
from iecl_jax.models.detection import boxes, faster_rcnn
from iecl_jax.models.detection.roi_head import Truths

pytestmark = pytest.mark.slow

CLASSES, CANVAS, BATCH = 3, 64, 4
SIZES = jnp.array([[64.0, 64], [64, 40], [50, 64], [64, 64]])
SMALL = {
    "fpn_width": 8,
    "anchor_sizes": (8.0, 16.0, 32.0, 64.0, 128.0),  # the last is larger than the canvas
    "rpn.before_nms_train": 40,
    "rpn.after_nms_train": 60,
    "rpn.before_nms_test": 40,
    "rpn.after_nms_test": 30,
    "rpn.sampled": 32,
    "roi.hidden_dim": 16,
    "roi.sampled": 16,
    "roi.detections": 20,
}


def make(**settings):
    found = section.defaults(faster_rcnn.Settings)
    axis, dtype = settings.pop("axis_name", None), settings.pop("dtype", jnp.float32)
    for name, value in (SMALL | settings).items():
        section.put(found, name, value)
    return faster_rcnn.Detector(
        CLASSES, ml_collections.FrozenConfigDict(found), (CANVAS, CANVAS), axis, dtype
    )


def stages(seed=0):
    rng = np.random.default_rng(seed)
    shapes = zip(faster_rcnn.STAGES, (16, 8, 4, 2), (4, 6, 8, 10), strict=True)
    return {
        name: jnp.asarray(rng.normal(size=(BATCH, size, size, width)), jnp.float32)
        for name, size, width in shapes
    }


def truths(rows=3, seed=0):
    """Two objects, none, one, three; the rows of padding have numbers too."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 25, (BATCH, 3, 2))
    real = np.concatenate([low, low + rng.uniform(5, 14, (BATCH, 3, 2))], axis=2)
    own = rng.integers(CLASSES, size=(BATCH, 3))
    found = rng.uniform(0, 64, (BATCH, rows, 4))
    found[:, :3] = real
    found[2, 1] = found[2, 1, [0, 1, 0, 3]]  # padding, of no width
    labels = np.full((BATCH, rows), 2)
    labels[:, :3] = own
    present = np.arange(rows)[None] < np.array([[2], [0], [1], [3]])
    return Truths(
        jnp.asarray(found, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.asarray(present)
    )


@functools.cache
def weights():
    init = jax.jit(make().init)
    params = init(jax.random.key(0), stages(), jnp.zeros((BATCH, 1, 4)))["params"]
    # Logits that differ, as those of a trained network do.
    params["rpn"]["cls_logits"]["kernel"] *= 20
    params["roi"]["cls_score"]["kernel"] *= 3
    return params


KEYS = jax.random.split(jax.random.key(1), BATCH)


def losses_of(detector):
    def losses(params, *arguments):
        return detector.apply({"params": params}, *arguments, method="losses")

    return losses


def test_images_without_objects_and_gradients():
    none = truths()._replace(present=jnp.zeros((BATCH, 3), bool))

    @jax.jit
    def run(params, given):
        def total(params):
            found = losses_of(make())(params, stages(), given, SIZES, KEYS)
            return sum(found.values()), found

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, without), gradient = run(weights(), none)
    assert without["box"] == without["rpn_box"] == 0
    assert without["objectness"] > 0
    assert without["class"] > 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))

    (_, found), gradient = run(weights(), truths())
    assert min(found.values()) > 0
    sizes = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradient)
    assert min(jax.tree.leaves(sizes)) > 0, sizes
    assert max(jax.tree.leaves(sizes)) < 1e3


def test_padding_counts_nothing():
    everything = {"rpn.sampled": 2000, "rpn.positive_share": 1.0}
    everything |= {"roi.sampled": 80, "roi.positive_share": 1.0}
    run = jax.jit(losses_of(make(**everything)))
    few, many = (run(weights(), stages(), truths(rows), SIZES, KEYS) for rows in (3, 9))
    for name, value in few.items():
        np.testing.assert_allclose(many[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("sampled", [16, 100])
def test_losses_are_the_same_on_two_devices(sampled):
    """Also where the devices count different numbers of proposals, as with 100."""
    settings = {"roi.sampled": sampled}
    one = jax.jit(losses_of(make(**settings)))(weights(), stages(), truths(), SIZES, KEYS)
    over_two = losses_of(make(**settings, axis_name="device"))
    arguments = stages(), truths(), SIZES, KEYS
    halves = jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), arguments)
    mapped = jax.pmap(over_two, axis_name="device", in_axes=(None, 0, 0, 0, 0))
    two = mapped(weights(), *halves)
    for name, value in one.items():
        np.testing.assert_allclose(two[name].mean(), value, rtol=1e-5, err_msg=name)


def test_half_precision_has_float32_boxes():
    exact, rough = (
        jax.jit(losses_of(make(dtype=dtype)))(weights(), stages(), truths(), SIZES, KEYS)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for name, value in rough.items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, exact[name], rtol=0.2, atol=0.02)


def test_detections_lie_on_the_image():
    detector = make()
    found = jax.jit(functools.partial(detector.apply, method="detect"))(
        {"params": weights()}, stages(), SIZES
    )
    assert found.boxes.shape == (BATCH, 20, 4)
    for i in range(BATCH):
        count = int(found.valid[i].sum())
        assert count > 3
        assert found.valid[i, :count].all()
        own, scores = found.boxes[i, :count], np.asarray(found.scores[i, :count])
        assert (np.diff(scores) <= 0).all()
        assert (scores > 0.05).all()
        assert (own >= 0).all()
        assert (own[:, 2] <= SIZES[i, 1]).all()
        assert (own[:, 3] <= SIZES[i, 0]).all()
        same = found.labels[i, :count, None] == found.labels[i, None, :count]
        overlaps = jnp.where(same, boxes.iou(own, own), 0)
        assert (overlaps[~np.eye(count, dtype=bool)] <= 0.5).all()
