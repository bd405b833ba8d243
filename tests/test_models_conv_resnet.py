"""Spectral normalisation, convolutions and the ResNet against NumPy, SciPy and torchvision."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from iecl_jax.models import initializers
from iecl_jax.models.conv import Conv, folded, power_iteration
from iecl_jax.models.encoders import resnet
from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet


def _unit(x):
    return x / np.linalg.norm(x)


def _power_step(kernel, u):
    """Algorithm 1 of Miyato et al. 2018, one step, in float64: (sigma, u, v)."""
    matrix = np.float64(kernel).reshape(-1, kernel.shape[-1])
    v = _unit(matrix @ np.float64(u))
    u = _unit(matrix.T @ v)
    return v @ matrix @ u, u, v


# ---------------------------------------------------------------- power iteration and Conv


@pytest.mark.parametrize("shape", [(27, 6), (4, 9)])
def test_power_iteration_finds_the_largest_singular_value(shape):
    rng = np.random.default_rng(shape[0])
    matrix, u = rng.normal(size=shape), _unit(rng.normal(size=shape[1]))
    fn = jax.jit(power_iteration, static_argnums=2)
    arrays = jnp.asarray(matrix, jnp.float32), jnp.asarray(u, jnp.float32)

    left, values, right = np.linalg.svd(matrix)
    sigma, got = fn(*arrays, 300)
    np.testing.assert_allclose(sigma, values[0], rtol=1e-5)
    np.testing.assert_allclose(abs(got @ right[0]), 1, rtol=1e-5)

    once, _ = fn(*arrays, 1)  # an early estimate is the formula's, from below
    np.testing.assert_allclose(once, _power_step(matrix, u)[0], rtol=1e-5)
    assert once < values[0]

    gradient = jax.jit(jax.grad(lambda m, u: power_iteration(m, u, 300)[0]))(*arrays)
    np.testing.assert_allclose(gradient, np.outer(left[:, 0], right[0]), rtol=1e-3, atol=1e-4)


def test_training_calls_converge_to_the_spectral_norm():
    conv = Conv(6, 3, train=True, spectral_norm=True)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 5, 3)), jnp.float32)
    variables = jax.jit(conv.init)(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    initial = variables["batch_stats"]
    np.testing.assert_allclose(np.linalg.norm(initial["u"]), 1, rtol=1e-5)
    apply = jax.jit(functools.partial(conv.apply, mutable=["batch_stats"]))
    largest = np.linalg.svd(kernel.reshape(-1, 6))[1][0]
    assert initial["sigma"] <= largest * (1 + 1e-6)
    np.testing.assert_allclose(initial["sigma"], largest, rtol=0.02)  # close from the start

    away = _unit(np.linalg.svd(kernel.reshape(-1, 6))[2][1:].sum(0) + 0.01)
    stats = {"u": np.float32(away), "sigma": np.float32(0)}
    for _ in range(100):
        y, new = apply({"params": variables["params"], "batch_stats": stats}, x)
        stats = new["batch_stats"]
    np.testing.assert_allclose(stats["sigma"], largest, rtol=1e-5)
    np.testing.assert_allclose(y, _conv(x, kernel / largest, 1), rtol=1e-3, atol=1e-5)


def test_gradient_and_update_of_a_normalised_kernel():
    """d/dW f(W / sigma) = (G - <G, W / sigma> v u') / sigma with G = f'(W / sigma)."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 3)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(2, 5, 5, 4)), jnp.float32)
    kernel = np.float32(rng.normal(size=(3, 3, 3, 4)))
    u = np.float32(
        _unit(rng.normal(size=4))
    )  # far from converged: the v u' term must match v and u
    stats = {"u": u, "sigma": np.float32(7)}

    def gradient(conv):
        def loss(kernel, stats):
            variables = {"params": {"kernel": kernel}, "batch_stats": stats}
            y, new = conv.apply(variables, x, mutable=["batch_stats"])
            return (y * weights).sum(), (y, new.get("batch_stats"))

        return jax.jit(jax.grad(loss, has_aux=True))

    sigma, new_u, v = _power_step(kernel, u)
    plain, _ = gradient(Conv(4, 3, train=True))(kernel, {})  # f is linear: the same at any kernel
    plain = np.float64(plain).reshape(-1, 4)
    matrix = np.float64(kernel).reshape(-1, 4)
    expected = (plain - (plain * matrix / sigma).sum() * np.outer(v, new_u)) / sigma

    normalised = gradient(Conv(4, 3, train=True, spectral_norm=True))
    got, (y, new) = normalised(kernel, stats)
    np.testing.assert_allclose(got, expected.reshape(kernel.shape), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(y, _conv(x, kernel / sigma, 1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(new["sigma"], sigma, rtol=1e-5)
    np.testing.assert_allclose(new["u"], new_u, rtol=1e-4, atol=1e-6)

    evaluated = gradient(Conv(4, 3, train=False, spectral_norm=True))
    _, (eval_y, kept) = evaluated(kernel, stats)
    np.testing.assert_allclose(eval_y, y, rtol=1e-5, atol=1e-6)  # the same step as training's
    jax.tree.map(np.testing.assert_array_equal, kept, stats)


def test_converged_gradient_is_that_of_the_true_spectral_norm():
    rng = np.random.default_rng(2)
    matrix, weights = rng.normal(size=(6, 3)), rng.normal(size=(6, 3))
    u = jnp.asarray(_unit(rng.normal(size=3)), jnp.float32)

    def fn(m):
        return (m / power_iteration(m, u, 200)[0] * jnp.asarray(weights, jnp.float32)).sum()

    numeric, step = np.zeros_like(matrix), 1e-5
    for i in np.ndindex(matrix.shape):
        moved = [matrix.copy(), matrix.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        high, low = ((m / np.linalg.svd(m)[1][0] * weights).sum() for m in moved)
        numeric[i] = (high - low) / (2 * step)
    got = jax.jit(jax.grad(fn))(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(got, numeric, rtol=1e-3, atol=1e-4)


def _conv(x, kernel, stride):
    """Zero-padded by (kernel - 1) // 2, tap by tap, in float64."""
    x, kernel = np.float64(x), np.float64(kernel)
    size = len(kernel)
    pad = (size - 1) // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n - size) // stride + 1 for n in x.shape[1:3])
    y = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            taps = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            y += taps[:, :height, :width] @ kernel[i, j]
    return y


@pytest.mark.parametrize("size, stride, side", [(7, 2, 8), (3, 2, 7), (3, 1, 5), (1, 2, 8)])
def test_convolution_against_scipy(size, stride, side):
    rng = np.random.default_rng(size + stride)
    x = rng.normal(size=(2, side, side + 2, 3))
    kernel = rng.normal(size=(size, size, 3, 2))
    same = np.zeros((2, side, side + 2, 2))
    for b, i, o in np.ndindex(2, 3, 2):
        same[b, ..., o] += scipy.signal.correlate2d(x[b, ..., i], kernel[..., i, o], mode="same")
    conv = Conv(2, size, train=True, stride=stride)
    got = jax.jit(conv.apply)({"params": {"kernel": np.float32(kernel)}}, np.float32(x))
    np.testing.assert_allclose(got, same[:, ::stride, ::stride], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(_conv(x, kernel, stride), same[:, ::stride, ::stride])


def test_folded_kernels_compute_the_same_without_the_norm():
    net = ResNet((1, 1), False, width=4, stem="cifar", spectral_norm=True)
    x = jnp.asarray(np.random.default_rng(6).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), x)
    params, stats = folded(variables["params"], variables["batch_stats"])
    plain = net.copy(spectral_norm=False)
    shapes = jax.eval_shape(functools.partial(plain.init, train=False), jax.random.key(0), x)
    assert jax.tree.structure({"params": params, "batch_stats": stats}) == jax.tree.structure(
        dict(shapes)
    )
    expected = jax.jit(functools.partial(net.apply, train=False))(variables, x)
    got = jax.jit(functools.partial(plain.apply, train=False))(
        {"params": params, "batch_stats": stats}, x
    )
    np.testing.assert_allclose(got["stage2"], expected["stage2"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size, dilation, stride", [(3, 2, 1), (3, 5, 1), (3, 2, 2), (4, 3, 1)])
def test_a_dilated_convolution_is_that_of_a_kernel_with_zeros_between_its_taps(
    size, dilation, stride
):
    rng = np.random.default_rng(size + dilation)
    x, kernel = rng.normal(size=(2, 9, 11, 3)), rng.normal(size=(size, size, 3, 2))
    spread = np.zeros(((size - 1) * dilation + 1,) * 2 + (3, 2))
    spread[::dilation, ::dilation] = kernel
    before = dilation * ((size - 1) // 2)  # of the padding; the rest of it is behind
    padded = np.pad(x, ((0, 0), *[(before, len(spread) - 1 - before)] * 2, (0, 0)))
    expected = np.zeros((2, 9, 11, 2))
    for b, i, o in np.ndindex(2, 3, 2):
        expected[b, ..., o] += scipy.signal.correlate2d(
            padded[b, ..., i], spread[..., i, o], mode="valid"
        )
    conv = Conv(2, size, train=True, stride=stride, dilation=dilation)
    got = jax.jit(conv.apply)({"params": {"kernel": np.float32(kernel)}}, np.float32(x))
    np.testing.assert_allclose(got, expected[:, ::stride, ::stride], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "init, shape, deviation",
    [
        (initializers.he_fan_out, (3, 3, 40, 10), math.sqrt(2 / 90)),
        (initializers.he_fan_in, (3, 3, 10, 40), math.sqrt(2 / 90)),
        (initializers.lecun, (50, 80), math.sqrt(1 / 50)),
        (initializers.small, (60, 60), 0.02),
    ],
)
def test_initializers(init, shape, deviation):
    drawn = np.asarray(init(jax.random.key(0), shape))
    assert drawn.shape == shape
    assert drawn.dtype == np.float32
    assert abs(drawn.mean()) < 4 * deviation / math.sqrt(drawn.size)
    np.testing.assert_allclose(drawn.std(), deviation, rtol=4 / math.sqrt(2 * drawn.size))


# ---------------------------------------------------------------- ResNet


def _shapes(side, batch=2, *, architecture, **settings):
    """Shapes of (variables, outputs), without compiling."""
    net = ResNet(*ARCHITECTURES[architecture], **settings)
    x = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    variables = jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0), x)
    return variables, jax.eval_shape(functools.partial(net.apply, train=False), variables, x)


@pytest.mark.parametrize(
    "architecture, num_params, expansion",
    [
        ("resnet18", 11_176_512, 1),
        ("resnet34", 21_284_672, 1),
        ("resnet50", 23_508_032, 4),
        ("resnet101", 42_500_160, 4),
    ],
)
def test_parameters_and_stages_are_torchvisions(architecture, num_params, expansion):
    """The published counts, less the 1000-way `fc` layer."""
    variables, outputs = _shapes(224, architecture=architecture)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == num_params
    for i, side in enumerate((56, 28, 14, 7)):
        assert outputs[f"stage{i + 1}"].shape == (2, side, side, 64 * 2**i * expansion)
    assert outputs["pooled"].shape == (2, 512 * expansion)


def test_cifar_stem_width_and_types():
    settings = {"architecture": "resnet10", "stem": "cifar", "width": 4, "dtype": jnp.bfloat16}
    variables, outputs = _shapes(32, **settings, spectral_norm=True)
    assert variables["params"]["conv1"]["kernel"].shape == (3, 3, 3, 4)
    for i, side in enumerate((32, 16, 8, 4)):
        assert outputs[f"stage{i + 1}"].shape == (2, side, side, 4 * 2**i)
        assert outputs[f"stage{i + 1}"].dtype == jnp.bfloat16
    assert outputs["pooled"].dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    stats = jax.tree_util.tree_leaves_with_path(variables["batch_stats"])
    kernels = jax.tree_util.tree_leaves_with_path(variables["params"])
    sigmas = {jax.tree_util.keystr(path[:-1]) for path, _ in stats if path[-1].key == "sigma"}
    assert sigmas == {jax.tree_util.keystr(p[:-1]) for p, _ in kernels if p[-1].key == "kernel"}


def _batch_norm(x, params, stats, train):
    mean, var = np.float64(stats["mean"]), np.float64(stats["var"])
    if train:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * params["scale"] + params["bias"]


def _max_pool(x):
    """3x3 windows with stride 2, padded by 1 with values that never win."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    rows, columns = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    y = np.empty((len(x), rows, columns, x.shape[-1]))
    for i, j in np.ndindex(rows, columns):
        y[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2))
    return y


def _resnet_reference(variables, x, *, stem, depths, bottleneck, spectral_norm, train):
    """Float64 ResNet v1.5 on the module's own parameters: {"stage1", ..., "stage4", "pooled"}."""
    params, stats = variables["params"], variables["batch_stats"]

    def conv_norm(x, conv, norm, stride, *scopes):
        p, s = params, stats
        for scope in scopes:
            p, s = p[scope], s[scope]
        kernel = np.float64(p[conv]["kernel"])
        if spectral_norm:
            kernel = kernel / _power_step(kernel, s[conv]["u"])[0]
        return _batch_norm(_conv(x, kernel, stride), p[norm], s[norm], train)

    x = np.maximum(conv_norm(np.float64(x), "conv1", "bn1", 2 if stem == "imagenet" else 1), 0)
    x = _max_pool(x) if stem == "imagenet" else x
    outputs = {}
    for i, depth in enumerate(depths, 1):
        for j in range(depth):
            name, stride = f"layer{i}_{j}", 2 if i > 1 and j == 0 else 1
            strides = [1, stride, 1] if bottleneck else [stride, 1]
            y = x
            for k, s in enumerate(strides, 1):
                y = conv_norm(y, f"conv{k}", f"bn{k}", s, name)
                y = np.maximum(y, 0) if k < len(strides) else y
            if "downsample_conv" in params[name]:
                x = conv_norm(x, "downsample_conv", "downsample_bn", stride, name)
            x = np.maximum(x + y, 0)
        outputs[f"stage{i}"] = x
    pooled = x.mean((1, 2))
    if "feature" in params:
        pooled = pooled @ np.float64(params["feature"]["kernel"]) + params["feature"]["bias"]
    return outputs | {"pooled": pooled}


@pytest.mark.parametrize(
    "depths, bottleneck, stem, side, feature_dim, spectral_norm, train",
    [
        ((1, 1, 1, 1), False, "cifar", 8, 0, True, True),
        ((2, 1, 1, 1), True, "imagenet", 32, 5, True, False),
    ],
    ids=["basic", "bottleneck"],
)
def test_forward_against_numpy(depths, bottleneck, stem, side, feature_dim, spectral_norm, train):
    settings = {"stem": stem, "width": 4, "feature_dim": feature_dim}
    net = ResNet(depths, bottleneck, **settings, spectral_norm=spectral_norm)
    rng = np.random.default_rng(3)
    x = np.float32(rng.normal(size=(8, side, side, 3)))
    shapes = jax.eval_shape(functools.partial(net.init, train=True), jax.random.key(0), x)

    def draw(path, leaf):
        value = rng.normal(size=leaf.shape)
        name = path[-1].key
        value = _unit(value) if name == "u" else value
        value = rng.uniform(0.5, 2, size=leaf.shape) if name in ("var", "scale") else value
        return np.float32(value)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    apply = jax.jit(functools.partial(net.apply, train=train, mutable=["batch_stats"]))
    outputs, new = apply(variables, x)
    expected = _resnet_reference(
        variables,
        x,
        stem=stem,
        depths=depths,
        bottleneck=bottleneck,
        spectral_norm=spectral_norm,
        train=train,
    )
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=2e-3, atol=2e-3 * abs(value).max())
    unchanged = [
        np.array_equal(a, b)
        for a, b in zip(
            jax.tree.leaves(new), jax.tree.leaves({"batch_stats": variables["batch_stats"]})
        )
    ]
    assert not any(unchanged) if train else all(unchanged)


@pytest.mark.parametrize(
    "bottleneck, output_stride",
    [
        pytest.param(False, 8, id="basic"),
        pytest.param(True, 16, marks=pytest.mark.slow, id="bottleneck"),
    ],
)
def test_a_dilated_network_computes_the_strided_one_and_the_pixels_between(
    bottleneck, output_stride
):
    """Every second, or fourth, pixel is that of the network with strides (Chen et al. 2017)."""
    plain = ResNet((1, 1, 1, 2), bottleneck, width=4)
    dilated = plain.copy(output_stride=output_stride)
    x = np.float32(np.random.default_rng(5).normal(size=(1, 64, 64, 3)))
    variables = jax.jit(functools.partial(plain.init, train=False))(jax.random.key(0), x)
    expected = jax.jit(functools.partial(plain.apply, train=False))(variables, x)
    got = jax.jit(functools.partial(dilated.apply, train=False))(variables, x)
    for i, natural in enumerate((4, 8, 16, 32), 1):
        every = max(1, natural // output_stride)
        stage, wanted = got[f"stage{i}"], expected[f"stage{i}"]
        assert stage.shape[1] == wanted.shape[1] * every
        np.testing.assert_allclose(stage[:, ::every, ::every], wanted, rtol=1e-4, atol=1e-4)


def test_output_stride_counts_the_pixels_of_the_image():
    _, outputs = _shapes(64, architecture="resnet10", stem="cifar", width=4, output_stride=8)
    assert [outputs[f"stage{i}"].shape[1] for i in (1, 2, 3, 4)] == [64, 32, 16, 8]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_residual_starts_each_block_at_its_skip(bottleneck):
    conv = functools.partial(Conv, train=True)
    norm = functools.partial(resnet.BatchNorm, use_running_average=False)
    width = 4 if not bottleneck else 2
    block = resnet.Block(width, 1, bottleneck, True, conv, norm)
    channels = 4 * width if bottleneck else width
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 3, channels)), jnp.float32)

    @jax.jit
    def run(key):
        variables = block.init(key, x)
        return variables, block.apply(variables, x, mutable=["batch_stats"])[0]

    variables, y = run(jax.random.key(0))
    last = 3 if bottleneck else 2
    for i in range(1, last + 1):
        scale = variables["params"][f"bn{i}"]["scale"]
        np.testing.assert_array_equal(scale, np.full(scale.shape, float(i < last)))
    np.testing.assert_array_equal(y, np.maximum(x, 0))
