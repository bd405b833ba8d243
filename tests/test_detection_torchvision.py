"""The detector against torchvision, where it is installed: its rules, and the whole model."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from iecl_jax.config import section
from iecl_jax.models.detection import assign, boxes, faster_rcnn, roi_head
from iecl_jax.models.detection.anchors import grid_anchors
from iecl_jax.models.detection.nms import nms
from iecl_jax.models.detection.roi_align import roi_align
from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # torch's own
]

CLASSES, CANVAS = 4, (160, 192)
SIZES = ((160, 192), (160, 170), (131, 192))  # of the images, in pixels


def random_boxes(rng, count, size=100.0):
    low = rng.uniform(-5, size, (count, 2))
    return np.float32(np.concatenate([low, low + rng.uniform(1, size / 2, (count, 2))], axis=1))


def t(array):
    return torch.from_numpy(np.array(array))


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize("seed", range(3))
def test_rules(seed):
    detection = torchvision.models.detection
    rng = np.random.default_rng(seed)
    own, other = random_boxes(rng, 40), random_boxes(rng, 40)
    np.testing.assert_allclose(
        jax.jit(boxes.iou)(own, other),
        torchvision.ops.box_iou(t(own), t(other)),
        rtol=1e-4,
        atol=1e-6,
    )
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder = detection._utils.BoxCoder(weights)
        got = jax.jit(boxes.encode, static_argnums=2)(own, other, weights)
        expected = coder.encode_single(t(own), t(other))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
        deltas = np.float32(rng.normal(size=(40, 4)) * np.array([3, 3, 30, 30]))
        assert (deltas[:, 2:] / weights[2] > boxes.LARGEST_SCALE).any()
        got = jax.jit(boxes.decode, static_argnums=2)(deltas, other, weights)
        expected = coder.decode_single(t(deltas), t(other))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-2)

    scores, classes = np.float32(rng.permutation(300) / 300), rng.integers(3, size=300)
    many = random_boxes(rng, 300, size=40.0)
    suppress = jax.jit(nms, static_argnums=3)
    for threshold in (0.3, 0.7):
        kept = suppress(many, scores, np.ones(300, bool), threshold)
        expected = torchvision.ops.nms(t(many), t(scores), threshold)
        np.testing.assert_array_equal(np.flatnonzero(kept), np.sort(expected))
        each = [suppress(many, scores, classes == c, threshold) for c in range(3)]
        expected = torchvision.ops.batched_nms(t(many), t(scores), t(classes), threshold)
        np.testing.assert_array_equal(np.flatnonzero(np.any(each, axis=0)), np.sort(expected))

    truths = np.round(random_boxes(rng, 5))
    candidates = np.round(np.concatenate([random_boxes(rng, 200), truths + 7]))
    overlaps = np.asarray(jax.jit(boxes.iou)(truths, candidates))
    for limits in ((0.7, 0.3, True), (0.5, 0.5, False)):
        names = dict(zip(("foreground", "background", "low_quality"), limits, strict=True))
        fn = functools.partial(assign.match, **names)
        matched = jax.jit(fn)(overlaps, np.ones(5, bool))
        np.testing.assert_array_equal(matched, detection._utils.Matcher(*limits)(t(overlaps)))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, 0])
def test_roi_align(aligned, ratio):
    """Also of boxes at the border, beyond it, and without width."""
    rng = np.random.default_rng(ratio)
    feature = np.float32(rng.normal(size=(12, 15, 3)))
    own = random_boxes(rng, 60, size=80.0)
    own[0] = 0, 0, 120, 96
    own[1] = -20, -9, 15, 30
    own[2] = 110, 90, 125, 101
    own[3] = 40, 40, 40, 60
    own[4] = 119.5, 95.5, 120, 96
    options = {"output_size": 7, "sampling_ratio": ratio, "aligned": aligned}
    got = jax.jit(functools.partial(roi_align, scale=1 / 8, **options))(jnp.asarray(feature), own)
    expected = torchvision.ops.roi_align(
        t(feature.transpose(2, 0, 1)[None]), [t(own)], spatial_scale=1 / 8, **options
    )
    np.testing.assert_allclose(
        np.asarray(got).transpose(0, 3, 1, 2), expected, rtol=1e-3, atol=3e-5
    )


def test_anchors():
    """Also of a canvas smaller than the largest anchor."""
    generator = torchvision.models.detection.anchor_utils.AnchorGenerator(
        ((24,), (56,), (300,)), ((0.4, 1.0, 3.0),) * 3
    )
    features = ((16, 24), (8, 12), (1, 2))
    maps = [torch.zeros(1, 1, *size) for size in features]
    images = torchvision.models.detection.image_list.ImageList(
        torch.zeros(1, 3, 128, 192), [(128, 192)]
    )
    [expected] = generator(images, maps)
    rows = zip(features, (24.0, 56.0, 300.0), strict=True)
    got = [grid_anchors(feature, (128, 192), size, (0.4, 1.0, 3.0)) for feature, size in rows]
    np.testing.assert_allclose(np.concatenate(got), expected)


# ---------------------------------------------------------------- the whole model


@pytest.fixture(scope="module")
def reference():
    """torchvision's model with random weights, as spread as those of a trained one."""
    torch.manual_seed(0)
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=min(SIZES[0]),
        max_size=max(SIZES[0]),
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (".bn" in name and name.endswith("weight")):
            torch.nn.init.uniform_(value, 0.7, 1.3)
        elif name.endswith(("running_mean", "bias")):
            torch.nn.init.uniform_(value, -0.1, 0.1)
    head, predictor = model.rpn.head, model.roi_heads.box_predictor
    for layer, deviation in (
        (head.cls_logits, 0.004),
        (head.bbox_pred, 0.0008),
        (predictor.cls_score, 0.005),
        (predictor.bbox_pred, 0.0025),
    ):
        torch.nn.init.normal_(layer.weight, std=deviation)
    return model.eval()


def transplanted(model, of=lambda parameter: parameter):
    """({"params", "batch_stats"} of the encoder, {"params"} of the detector), or `of` each."""
    body, params, stats = model.backbone.body, {}, {}

    def kernel(weight):
        array = of(weight).detach().numpy()
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

    def conv(module):
        return {"kernel": kernel(module.weight), "bias": of(module.bias).detach().numpy()}

    def norm(module):
        affine = {"scale": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()}
        return affine, {"mean": module.running_mean.numpy(), "var": module.running_var.numpy()}

    params["conv1"] = {"kernel": kernel(body.conv1.weight)}
    params["bn1"], stats["bn1"] = norm(body.bn1)
    for stage in range(1, 5):
        for j, block in enumerate(getattr(body, f"layer{stage}")):
            own, moving = {}, {}
            for i in (1, 2, 3):
                own[f"conv{i}"] = {"kernel": kernel(getattr(block, f"conv{i}").weight)}
                own[f"bn{i}"], moving[f"bn{i}"] = norm(getattr(block, f"bn{i}"))
            if block.downsample is not None:
                own["downsample_conv"] = {"kernel": kernel(block.downsample[0].weight)}
                own["downsample_bn"], moving["downsample_bn"] = norm(block.downsample[1])
            params[f"layer{stage}_{j}"], stats[f"layer{stage}_{j}"] = own, moving
    fpn, head = model.backbone.fpn, model.rpn.head
    blocks = {f"inner_blocks_{i}": conv(block[0]) for i, block in enumerate(fpn.inner_blocks)}
    blocks |= {f"layer_blocks_{i}": conv(block[0]) for i, block in enumerate(fpn.layer_blocks)}
    roi, predictor = model.roi_heads.box_head, model.roi_heads.box_predictor
    fc6 = conv(roi.fc6)  # its inputs are channels, rows, columns there
    fc6["kernel"] = fc6["kernel"].reshape(256, 7, 7, -1).transpose(1, 2, 0, 3).reshape(49 * 256, -1)
    detector = {
        "fpn": blocks,
        "rpn": {
            "conv": conv(head.conv[0][0]),
            "cls_logits": conv(head.cls_logits),
            "bbox_pred": conv(head.bbox_pred),
        },
        "roi": {
            "fc6": fc6,
            "fc7": conv(roi.fc7),
            "cls_score": conv(predictor.cls_score),
            "bbox_pred": conv(predictor.bbox_pred),
        },
    }
    return {"params": params, "batch_stats": stats}, {"params": detector}


def images():
    rng = np.random.default_rng(0)
    return [np.float32(rng.normal(size=(*size, 3))) for size in SIZES]


def on_canvas():
    canvas = np.zeros((len(SIZES), *CANVAS, 3), np.float32)
    for place, image in zip(canvas, images(), strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return canvas


def torch_images():
    return [t(image.transpose(2, 0, 1)) for image in images()]


def call(model, method, *arguments, **changes):
    """The encoder and a method of the detector, compiled; losses come with their gradients."""
    weights = jax.tree.map(jnp.asarray, transplanted(model))
    settings = section.defaults(faster_rcnn.Settings)
    for name, value in changes.items():
        section.put(settings, name.replace("__", "."), value)
    detector = faster_rcnn.Detector(CLASSES, ml_collections.FrozenConfigDict(settings), CANVAS)
    encoder = ResNet(*ARCHITECTURES["resnet50"])

    @jax.jit
    def run(weights, images, *arguments):
        stages = encoder.apply(weights[0], images, train=False)
        stages = {name: stages[name] for name in faster_rcnn.STAGES}

        def total(weights):
            found = detector.apply(weights, stages, *arguments, method=method)
            return sum(found.values()), found

        if method == "losses":
            return jax.grad(total, has_aux=True)(weights[1])
        return detector.apply(weights[1], stages, *arguments, method=method)

    return run(weights, on_canvas(), *arguments)


def test_detections(reference):
    with torch.no_grad():
        expected = reference(torch_images())
    got = call(reference, "detect", jnp.asarray(SIZES, jnp.float32))
    for i, each in enumerate(expected):
        count = len(each["scores"])
        assert count > 20
        assert got.valid[i].sum() == count
        np.testing.assert_allclose(got.scores[i, :count], each["scores"], atol=1e-3)
        np.testing.assert_array_equal(got.labels[i, :count] + 1, each["labels"])
        np.testing.assert_allclose(got.boxes[i, :count], each["boxes"], atol=1e-2, rtol=1e-3)


class TakeAll:
    """In the place of a sampler."""

    def __call__(self, matched):
        return [(m >= 1).to(torch.uint8) for m in matched], [
            (m == 0).to(torch.uint8) for m in matched
        ]


def test_losses(reference):
    """Without draws; the second image has no truth, and rows of padding count nothing."""
    rng = np.random.default_rng(1)
    own = np.zeros((3, 6, 4), np.float32)
    labels, present = np.zeros((3, 6), np.int32), np.zeros((3, 6), bool)
    own[0, :3] = [[10, 12, 60, 90], [80, 20, 190, 150], [100, 100, 130, 120]]
    own[2, 1:3] = [[0, 0, 191, 130], [30, 50, 44, 61]]
    present[0, :3] = present[2, 1:3] = True
    labels[present] = rng.integers(CLASSES, size=5)
    targets = [
        {"boxes": t(own[i][present[i]]), "labels": t(labels[i][present[i]]).long() + 1}
        for i in range(3)
    ]
    reference.rpn.fg_bg_sampler = reference.roi_heads.fg_bg_sampler = TakeAll()
    reference.train()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    expected = reference(torch_images(), targets)
    sum(expected.values()).backward()
    reference.eval()
    gradients, got = call(
        reference,
        "losses",
        roi_head.Truths(jnp.asarray(own), jnp.asarray(labels), jnp.asarray(present)),
        jnp.asarray(SIZES, jnp.float32),
        jax.random.split(jax.random.key(0), 3),
        rpn__sampled=9000,
        rpn__positive_share=1.0,
        roi__sampled=2010,
        roi__positive_share=1.0,
    )
    names = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    assert got.keys() == names.keys()
    for name, other in names.items():
        np.testing.assert_allclose(got[name], expected[other].item(), rtol=1e-3, err_msg=name)
    of_torch = transplanted(reference, lambda parameter: parameter.grad)[1]["params"]
    for path, gradient in jax.tree.leaves_with_path(gradients["params"]):
        other = functools.reduce(lambda tree, each: tree[each.key], path, of_torch)
        largest = np.abs(other).max()
        assert largest > 0
        np.testing.assert_allclose(gradient, other, atol=2e-3 * largest, err_msg=str(path))
