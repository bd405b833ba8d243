"""The segmentation job: its loss and masks against NumPy, what it reads and refuses, and runs."""

import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_network

from iecl_jax.config import section
from iecl_jax.configs import voc_segmentation
from iecl_jax.data.voc import generated
from iecl_jax.data.voc.mask import IGNORED
from iecl_jax.evals import segmentation
from iecl_jax.evals.parts import jobs, segmenter
from iecl_jax.evals.parts.backbone import Backbone
from iecl_jax.models import build, deeplab

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own


# ---------------------------------------------------------------- the loss


def bilinear(grid, y, x):
    """The value of float64 [h, w, C] at a point in units of cells, clamped to their centres."""
    y, x = (min(max(at - 0.5, 0), side - 1) for at, side in zip((y, x), grid.shape))
    low = int(y), int(x)
    high = min(low[0] + 1, grid.shape[0] - 1), min(low[1] + 1, grid.shape[1] - 1)
    dy, dx = y - low[0], x - low[1]
    top = (1 - dx) * grid[low[0], low[1]] + dx * grid[low[0], high[1]]
    return (1 - dy) * top + dy * ((1 - dx) * grid[high[0], low[1]] + dx * grid[high[0], high[1]])


def cross_entropy(logits, mask):
    """Sum and number over the pixels with a class, in float64, pixel by pixel."""
    total, count = 0.0, 0
    size = mask.shape[1:]
    for b, i, j in np.ndindex(mask.shape):
        if mask[b, i, j] == IGNORED:
            continue
        grid = logits[b]
        at = ((k + 0.5) * cells / side for k, cells, side in zip((i, j), grid.shape, size))
        value = bilinear(grid, *at)
        total += np.log(np.exp(value).sum()) - value[mask[b, i, j]]
        count += 1
    return total, count


@pytest.fixture(name="pixels", scope="module")
def _pixels():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 2, 3, 4))
    mask = rng.integers(0, 4, (2, 6, 9)).astype(np.uint8)
    mask[0, :, :7] = mask[1, 0] = IGNORED  # the devices have unequally many
    return logits, mask


def test_the_loss_and_its_gradient_on_two_devices(pixels):
    logits, mask = pixels
    total, count = cross_entropy(logits, mask)

    def local(logits, mask):
        return segmenter.cross_entropy(logits, mask, "devices")

    losses, gradient = jax.pmap(jax.value_and_grad(local), axis_name="devices")(
        np.float32(logits)[:, None], mask[:, None]
    )
    np.testing.assert_allclose(losses.mean(), total / count, rtol=1e-5)
    # The step takes the mean over the devices of the gradients, so each is twice its share.
    for place in [(0, 0, 2, 1), (1, 1, 0, 3), (1, 0, 1, 0)]:
        moved = [logits.copy(), logits.copy()]
        moved[0][place] += 1e-5
        moved[1][place] -= 1e-5
        high, low = (cross_entropy(each, mask)[0] / count for each in moved)
        found = gradient[place[0], 0][place[1:]] / 2
        np.testing.assert_allclose(found, (high - low) / 2e-5, rtol=1e-3, atol=1e-6)


def test_a_batch_without_a_class_has_no_loss(pixels):
    logits, mask = pixels
    loss = segmenter.cross_entropy(jnp.float32(logits), jnp.full_like(mask, IGNORED), None)
    assert loss == 0


@pytest.mark.slow
def test_the_loss_of_a_batch_does_not_depend_on_the_devices():
    """Also with jitter and dropout, which are drawn for each image, and with BN of all images."""
    pretrain = tiny_network.get_config()
    pretrain.encoder.update({"num_stages": 4, "spectral_norm": False})
    settings = section.defaults(segmentation.Job)
    settings.update({"image_size": 32, "head_channels": 8})
    module = build.encoder(pretrain, "devices")
    x = jnp.zeros((2, 32, 32, 3))
    variables = build.encoder(pretrain).init(jax.random.key(0), x, train=False)
    start = Backbone(pretrain, module, variables["params"], variables["batch_stats"])
    network = segmenter.Network(start, settings, 5)
    head = network.init(jax.random.key(1))
    params = {"encoder": variables["params"], "head": head["params"]}
    stats = {"encoder": variables["batch_stats"], "head": head["batch_stats"]}
    tree = generated.open_tree(split="train")
    rows = [segmentation.read(tree, settings, 0, i, 0, i) for i in range(4)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    keys = jax.random.split(jax.random.key(2), 4)

    def step(params, stats, batch, keys):
        gradient = jax.value_and_grad(network.loss, has_aux=True)
        (loss, (new, _)), grads = gradient(params, stats, batch, keys)
        return jax.lax.pmean((loss, grads), "devices"), new

    def on(count):
        mapped = jax.pmap(
            step,
            axis_name="devices",
            in_axes=(None, None, 0, 0),
            out_axes=None,
            devices=jax.local_devices()[:count],
        )
        parts = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
        return jax.device_get(mapped(params, stats, parts, keys.reshape(count, -1)))

    for one, two in zip(jax.tree.leaves(on(1)), jax.tree.leaves(on(2)), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4 * max(1, abs(one).max()))


# ---------------------------------------------------------------- the masks


def test_logits_are_interpolated_at_the_pixels_of_the_image():
    rng = np.random.default_rng(1)
    grid = rng.normal(size=(4, 4, 3))
    canvas, shown, source = 32, (24, 32), (15, 20)
    found = jax.jit(lambda *x: deeplab.upsampled(*x, canvas=canvas, side=21))(
        np.float32(grid), np.int32(shown), np.int32(source)
    )
    for i, j in itertools.product(range(15), range(20)):
        at = [(k + 0.5) * s / o * 4 / canvas for k, s, o in zip((i, j), shown, source)]
        np.testing.assert_allclose(found[i, j], bilinear(grid, *at), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- what is read


def test_images_and_masks_are_read_together():
    tree = generated.open_tree(split="train")
    settings = section.defaults(segmentation.Job)
    settings.update({"image_size": 48, "scale": (0.5, 2.0)})
    found = [segmentation.read(tree, settings, 3, index, 5, 2) for index in range(8)]
    again = segmentation.read(tree, settings, 3, 4, 5, 2)
    for name, value in again.items():
        np.testing.assert_array_equal(value, found[4][name])
    others = [segmentation.read(tree, settings, *at) for at in ((4, 4, 5, 2), (3, 4, 6, 2))]
    assert all((each["image"] != again["image"]).any() for each in others)
    for row in found:
        h, w = row["shown"]
        assert row["image"].shape == (48, 48, 3)
        assert (row["mask"][h:] == IGNORED).all()
        assert (row["mask"][:, w:] == IGNORED).all()
        assert (row["mask"][:h, :w] != IGNORED).mean() > 0.5


def test_a_crop_of_one_class_is_drawn_again():
    tree = generated.open_tree(split="train")
    settings = section.defaults(segmentation.Job)
    settings.update({"image_size": 48, "scale": (2.0, 2.0)})

    def most(share):
        settings.most_of_a_class = share
        masks = (segmentation.read(tree, settings, 0, i, 0, 0)["mask"] for i in range(24))
        known = [np.bincount(mask[mask != IGNORED]) for mask in masks]
        return np.array([counts.max() / counts.sum() for counts in known])

    free, bound = most(1.0), most(0.75)
    assert (free > 0.75).mean() > (bound > 0.75).mean() + 0.1
    np.testing.assert_array_equal(free[free <= 0.75], bound[free <= 0.75])


# ---------------------------------------------------------------- the job


def config(**changes):
    found = voc_segmentation.get_config("smoke")
    found.update_from_flattened_dict(changes)
    return found


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"data.generated": False}, r"config.data.dir is empty: name a folder"),
        ({"data.dir": "/nowhere"}, r"data.dir='/nowhere' is not a folder"),
        ({"segmentation.batch_size": 5}, r"segmentation.batch_size=5 must be a multiple"),
        ({"segmentation.batch_size": 66}, r"is more than the 64 training images"),
        ({"segmentation.output_stride": 4}, r"output_stride=4 must be 32, 16 or 8"),
        ({"segmentation.head": "unet"}, r"segmentation.head='unet' is unknown"),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        jobs.run(config(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_job_runs_to_its_end(tmp_path, precision):
    results = jobs.run(config(**{"segmentation.precision": precision}), str(tmp_path))
    metrics = results["metrics"]
    assert results["steps"] == 4
    assert 0 < metrics["miou"] < 1
    assert set(metrics["iou"]) <= {"background", *generated.CLASSES}
    assert np.isfinite([metrics["loss"], metrics["auxiliary_loss"]]).all()
    assert json.loads((tmp_path / "results.json").read_text()) == results
    [folder] = tmp_path.glob("training-*")
    assert [path.name for path in (folder / "masks").iterdir()] == ["00000004.png"]
    assert [path.name for path in pathlib.Path(folder / "checkpoints").iterdir()] == ["4"]
