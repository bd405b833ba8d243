"""The heads for segmentation against NumPy, and with the encoder against torchvision."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models_conv_resnet import _batch_norm

from iecl_jax.models import deeplab
from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet


def _drawn(shapes, seed):
    """Variables of these shapes, drawn so that activations stay near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return np.float32(rng.uniform(0.5, 1.5, leaf.shape))
        fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 10
        return np.float32(rng.normal(size=leaf.shape) / np.sqrt(fan_in))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _dilated(x, kernel, rate):
    """A convolution of float64 [b, h, w, C], tap by tap, padded with zeros to the same size."""
    pad = rate * (len(kernel) // 2)
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i * rate : i * rate + height, j * rate : j * rate + width] @ kernel[i, j]
        for i, j in np.ndindex(kernel.shape[:2])
    )


def _layer(x, variables, name, *, rate=1, train=False):
    params, stats = variables["params"][name], variables["batch_stats"][name]
    y = _dilated(x, np.float64(params["conv"]["kernel"]), rate)
    return np.maximum(_batch_norm(y, params["bn"], stats["bn"], train), 0)


@pytest.mark.parametrize("train", [False, True])
def test_deeplab_against_numpy(train):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 7, 6))
    head = deeplab.DeepLab(3, (1, 2, 3), channels=4)
    shapes = jax.eval_shape(functools.partial(head.init, train=True), jax.random.key(0), x)
    variables = _drawn(shapes, 1)
    layer = functools.partial(_layer, variables=variables, train=train)
    parts = [layer(x, name="aspp0")]
    parts += [layer(x, name=f"aspp{rate}", rate=rate) for rate in (1, 2, 3)]
    pooled = layer(x.mean((1, 2), keepdims=True), name="pooling")
    parts.append(np.broadcast_to(pooled, parts[0].shape))
    y = layer(layer(np.concatenate(parts, -1), name="project"), name="last")
    linear = variables["params"]["logits"]
    expected = y @ np.float64(linear["kernel"]) + linear["bias"]

    apply = jax.jit(functools.partial(head.apply, train=train, mutable=["batch_stats"]))
    got, _ = apply(variables, np.float32(x))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_fcn_against_numpy():
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 8))
    head = deeplab.FCN(3)
    shapes = jax.eval_shape(functools.partial(head.init, train=True), jax.random.key(0), x)
    variables = _drawn(shapes, 2)
    linear = variables["params"]["logits"]
    expected = _layer(x, variables, "inner") @ np.float64(linear["kernel"]) + linear["bias"]
    got = jax.jit(functools.partial(head.apply, train=False))(variables, np.float32(x))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_dropout_is_of_each_image_and_keeps_the_mean():
    x = jnp.ones((3, 40, 40, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    whole = np.asarray(deeplab.dropout(keys, x, 0.25))
    assert set(np.unique(whole)) == {0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(whole.mean(), 1, atol=0.03)
    np.testing.assert_array_equal(deeplab.dropout(keys[1:], x[1:], 0.25), whole[1:])
    assert (whole[0] != whole[1]).any()
    np.testing.assert_array_equal(deeplab.dropout(None, x, 0.25), x)


def test_rates_and_heads_of_an_output_stride():
    for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18))):
        made = deeplab.make("deeplab", 21, output_stride=stride, auxiliary=True)
        assert made.head.rates == rates
        assert isinstance(made.auxiliary, deeplab.FCN)
    assert deeplab.make("fcn", 21, output_stride=8, auxiliary=False).auxiliary is None


def test_the_network_has_as_many_parameters_as_torchvisions():
    """The published count of `deeplabv3_resnet50` with its auxiliary head."""
    encoder = ResNet(*ARCHITECTURES["resnet50"], output_stride=8)
    heads = deeplab.make("deeplab", 21, output_stride=8, auxiliary=True)

    def init(key, x):
        variables = encoder.init(key, x, train=False)
        stages = encoder.apply(variables, x, train=False)
        return variables["params"], heads.init(key, stages, train=False)["params"]

    x = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0), x))
    assert sum(leaf.size for leaf in leaves) == 42_004_074


_HEAD = {
    "aspp0": ("classifier.0.convs.0.0", "classifier.0.convs.0.1"),
    "aspp1": ("classifier.0.convs.1.0", "classifier.0.convs.1.1"),
    "aspp2": ("classifier.0.convs.2.0", "classifier.0.convs.2.1"),
    "aspp3": ("classifier.0.convs.3.0", "classifier.0.convs.3.1"),
    "pooling": ("classifier.0.convs.4.1", "classifier.0.convs.4.2"),
    "project": ("classifier.0.project.0", "classifier.0.project.1"),
    "last": ("classifier.1", "classifier.2"),
}
_LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def _name_in_torchvision(path):
    """The name of one of our arrays in torchvision's `deeplabv3_resnet50`."""
    part, *inner, leaf = path
    if part == "encoder":
        module = "backbone." + ".".join(inner).replace("downsample_conv", "downsample.0")
        module = re.sub(r"layer(\d)_(\d+)", r"layer\1.\2", module)
        module = module.replace("downsample_bn", "downsample.1")
    elif part == "auxiliary":
        module = {"conv": "aux_classifier.0", "bn": "aux_classifier.1"}.get(
            inner[-1], "aux_classifier.4"
        )
    elif inner == ["logits"]:
        module = "classifier.4"
    else:
        module = _HEAD[inner[0]][inner[1] == "bn"]
    return f"{module}.{'weight' if leaf == 'kernel' else _LEAVES[leaf]}"


@pytest.mark.slow
def test_the_whole_network_is_torchvisions():
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    theirs = models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, aux_loss=True
    ).eval()
    encoder = ResNet(*ARCHITECTURES["resnet50"], output_stride=8)
    heads = deeplab.make("deeplab", 21, output_stride=8, auxiliary=True)
    x = np.random.default_rng(0).normal(size=(2, 65, 97, 3)).astype(np.float32)

    def whole(variables, x):
        def of(part):
            return {name: tree[part] for name, tree in variables.items()}

        stages = encoder.apply(of("encoder"), x, train=False)
        heads_of = {n: {k: t[k] for k in ("head", "auxiliary")} for n, t in variables.items()}
        found = heads.apply(heads_of, stages, train=False)
        size = (*x.shape[:3], 21)
        return {name: jax.image.resize(y, size, "bilinear") for name, y in found.items()}

    def init(key, x):
        of_encoder = encoder.init(key, x, train=False)
        stages = encoder.apply(of_encoder, x, train=False)
        of_heads = heads.init(key, stages, train=False)
        return {n: {"encoder": of_encoder[n]} | of_heads[n] for n in of_encoder}

    variables = _drawn(jax.eval_shape(init, jax.random.key(0), x), 3)
    state = theirs.state_dict()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        name = _name_in_torchvision([step.key for step in path[1:]])
        value = leaf.T if leaf.ndim == 2 else leaf
        value = value.transpose(3, 2, 0, 1) if leaf.ndim == 4 else value
        value = value.reshape(state[name].shape)
        state[name] = torch.tensor(np.ascontiguousarray(value))
    copied = len(jax.tree.leaves(variables))
    counters = sum(name.endswith("num_batches_tracked") for name in state)
    assert copied + counters == len(state)
    theirs.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(torch.tensor(x.transpose(0, 3, 1, 2)))
    got = jax.jit(whole)(variables, x)
    for ours, name in (("logits", "out"), ("auxiliary", "aux")):
        wanted = expected[name].numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(got[ours], wanted, rtol=1e-3, atol=1e-3 * abs(wanted).max())
