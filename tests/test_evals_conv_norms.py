"""Spectral norms of convolutions against dense matrices, NumPy's SVD and known bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from iecl_jax.evals.measures import conv_norms
from iecl_jax.models.encoders.resnet import ARCHITECTURES, ResNet

matrix_norm = jax.jit(conv_norms.matrix_norm, static_argnames="iterations")
operator_norm = jax.jit(
    conv_norms.operator_norm, static_argnums=(1, 2), static_argnames="iterations"
)


def random_kernel(*shape):
    return np.float32(np.random.default_rng(sum(shape)).normal(size=shape))


def convolve(kernel, image, *, circular):
    """y[i, j] = sum over taps of x[i + a - pad, j + b - pad] K[a, b], in float64."""
    kh, kw = kernel.shape[:2]
    height, width = image.shape[:2]
    top, left = (kh - 1) // 2, (kw - 1) // 2
    pad = ((top, kh - 1 - top), (left, kw - 1 - left), (0, 0))
    image = np.pad(image, pad, mode="wrap" if circular else "constant")
    y = np.zeros((height, width, kernel.shape[-1]))
    for a, b in np.ndindex(kh, kw):
        y += image[a : a + height, b : b + width] @ np.float64(kernel[a, b])
    return y


def dense_norm(kernel, height, width, *, circular=True, stride=1):
    """Largest singular value of the matrix whose columns are the outputs for unit images."""
    images = np.eye(height * width * kernel.shape[2]).reshape(-1, height, width, kernel.shape[2])
    outputs = [convolve(kernel, x, circular=circular)[::stride, ::stride].ravel() for x in images]
    return np.linalg.svd(np.stack(outputs), compute_uv=False)[0]


def reference_matrix_norm(kernel):
    return np.linalg.norm(np.float64(kernel).reshape(-1, kernel.shape[-1]), 2)


def reference_operator_norm(kernel, height, width):
    """By NumPy's FFT over all frequencies, in float64; taps beyond the grid are wrapped first."""
    grid = np.zeros((height, width, *kernel.shape[2:]))
    for a, b in np.ndindex(kernel.shape[:2]):
        grid[a % height, b % width] += kernel[a, b]
    transfer = np.fft.fft2(grid, axes=(0, 1)).reshape(-1, *kernel.shape[2:])
    return np.linalg.svd(transfer, compute_uv=False).max()


# ---------------------------------------------------------------- one kernel


@pytest.mark.parametrize(
    "shape, grid",
    [
        ((1, 1, 3, 4), (4, 4)),
        ((3, 3, 2, 4), (4, 6)),
        ((3, 3, 4, 2), (6, 5)),
        ((1, 3, 3, 3), (5, 4)),
        ((2, 3, 3, 3), (4, 5)),
        ((3, 3, 2, 3), (2, 2)),  # a kernel larger than the grid wraps around it
        ((5, 3, 2, 2), (1, 4)),
    ],
)
def test_operator_norm_is_that_of_the_dense_circular_convolution(shape, grid):
    kernel = random_kernel(*shape)
    expected = dense_norm(kernel, *grid)
    np.testing.assert_allclose(operator_norm(kernel, *grid), expected, rtol=1e-5)
    np.testing.assert_allclose(reference_operator_norm(kernel, *grid), expected, rtol=1e-10)


@pytest.mark.parametrize("shape", [(1, 1, 7, 5), (3, 3, 2, 6), (7, 7, 3, 16), (2, 1, 4, 1)])
def test_matrix_norm_is_the_largest_singular_value_of_the_reshaped_kernel(shape):
    kernel = random_kernel(*shape)
    np.testing.assert_allclose(matrix_norm(kernel), reference_matrix_norm(kernel), rtol=1e-5)
    np.testing.assert_allclose(matrix_norm(-3 * kernel), 3 * matrix_norm(kernel), rtol=1e-5)


def test_a_pointwise_convolution_has_one_norm():
    kernel = random_kernel(1, 1, 6, 4)
    np.testing.assert_allclose(operator_norm(kernel, 5, 3), matrix_norm(kernel), rtol=1e-5)


def test_an_averaging_kernel_reaches_the_bound_and_a_single_tap_the_matrix_norm():
    """The operator norm lies between the matrix norm and sqrt(kh * kw) times it, both attained."""
    average, tap = np.ones((3, 3, 1, 1), np.float32), np.zeros((3, 3, 1, 1), np.float32)
    tap[0, 1] = 2
    np.testing.assert_allclose(operator_norm(average, 6, 4), 3 * matrix_norm(average), rtol=1e-5)
    np.testing.assert_allclose(operator_norm(tap, 6, 4), matrix_norm(tap), rtol=1e-5)
    for seed in range(20):
        kernel = np.random.default_rng(seed).normal(size=(3, 3, 3, 4)).astype(np.float32)
        ratio = operator_norm(kernel, 5, 4) / matrix_norm(kernel)
        assert 1 - 1e-5 <= ratio <= 3 * (1 + 1e-5)


def test_a_stride_lowers_the_norm_and_zero_padding_is_bounded_on_a_larger_grid():
    for seed in range(5):
        kernel = np.random.default_rng(seed).normal(size=(3, 3, 2, 3)).astype(np.float32)
        norm, larger = operator_norm(kernel, 4, 4), operator_norm(kernel, 6, 6)
        assert dense_norm(kernel, 4, 4, stride=2) <= norm * (1 + 1e-5)
        assert dense_norm(kernel, 4, 4, circular=False) <= larger * (1 + 1e-5)
        assert dense_norm(kernel, 4, 4, circular=False, stride=2) <= larger * (1 + 1e-5)


def test_zero_padding_can_exceed_the_norm_on_its_own_grid():
    """x[i + 1] - x[i - 1] is 0 on a ring of two pixels, not between zeros: the grid must grow."""
    kernel = np.float32([-1, 0, 1]).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(operator_norm(kernel, 1, 2), 0, atol=1e-6)
    np.testing.assert_allclose(dense_norm(kernel, 1, 2, circular=False), 1, rtol=1e-10)
    np.testing.assert_allclose(operator_norm(kernel, 1, 4), 2, rtol=1e-5)


@pytest.mark.slow
def test_few_steps_estimate_from_below_and_the_default_is_within_a_thousandth():
    kernel = random_kernel(3, 3, 48, 64)
    expected = reference_operator_norm(kernel, 4, 4), reference_matrix_norm(kernel)
    for iterations, tolerance in ((3, 0.2), (conv_norms.ITERATIONS, 1e-3), (48, 1e-5)):
        operator = operator_norm(kernel, 4, 4, iterations=iterations)
        got = np.float32([operator, matrix_norm(kernel, iterations=iterations)])
        assert np.all(got <= np.multiply(expected, 1 + 1e-5))
        np.testing.assert_allclose(got, expected, rtol=tolerance)
        assert iterations > 3 or np.all(got < np.multiply(expected, 0.99))


def test_a_zero_kernel_has_norm_zero_and_one_direction_alone_is_found():
    zero = np.zeros((3, 3, 8, 8), np.float32)
    assert operator_norm(zero, 4, 4) == matrix_norm(zero) == 0
    rng = np.random.default_rng(0)
    kernel = np.float32(np.multiply.outer(rng.normal(size=(3, 3, 40)), rng.normal(size=40)))
    np.testing.assert_allclose(matrix_norm(kernel), np.linalg.norm(kernel), rtol=1e-5)


def test_products_are_full_float32():
    fn = functools.partial(conv_norms.operator_norm, height=4, width=4)
    jaxpr = str(jax.make_jaxpr(fn)(random_kernel(3, 3, 2, 2)))
    assert jaxpr.count("dot_general") == jaxpr.count("precision=(Precision.HIGHEST") == 2


# ---------------------------------------------------------------- an encoder


def trained(encoder, image_size, steps=3):
    """Parameters and statistics after some training calls between which the kernels move."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(4, image_size, image_size, 3)), jnp.float32)
    variables = jax.jit(functools.partial(encoder.init, train=False))(jax.random.key(0), images)
    apply = jax.jit(functools.partial(encoder.apply, train=True, mutable=["batch_stats"]))
    params, stats = variables["params"], variables["batch_stats"]
    for _ in range(steps):
        params = jax.tree.map(lambda x: x + np.float32(0.01 * rng.normal(size=x.shape)), params)
        stats = apply({"params": params, "batch_stats": stats}, images)[1]["batch_stats"]
    return params, stats


def convolution_kernels(params):
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = {"/".join(k.key for k in path): np.float64(leaf) for path, leaf in leaves}
    return {name.removesuffix("/kernel"): x for name, x in named.items() if x.ndim == 4}


def grid_side(path, side):
    """The input's side of a convolution of a ResNet, from its name, `side` being stage 1's."""
    stage = int(path[5])
    entered = path.endswith(("_0/conv1", "_0/downsample_conv")) and stage > 1
    return side // 2 ** (stage - 2 if entered else stage - 1)


@pytest.mark.parametrize(
    "stem, spectral_norm, image_size",
    [("cifar", True, 16), pytest.param("imagenet", False, 32, marks=pytest.mark.slow)],
)
def test_encoder_norms_are_those_of_the_convolutions_that_evaluation_applies(
    stem, spectral_norm, image_size
):
    encoder = ResNet((1, 1), False, stem=stem, width=4, feature_dim=5, spectral_norm=spectral_norm)
    params, stats = trained(encoder, image_size)

    @jax.jit
    def norms(params, stats):
        encode = functools.partial(encoder.apply, {"params": params, "batch_stats": stats})
        encode = functools.partial(encode, train=False)
        return conv_norms.encoder_norms(encode, params, stats, image_size=image_size)

    got = norms(params, stats)
    kernels = convolution_kernels(params)
    assert got.keys() == kernels.keys()
    assert "layer2_0/downsample_conv" in got
    side = image_size // (4 if stem == "imagenet" else 1)
    for path, kernel in kernels.items():
        if spectral_norm:
            matrix = kernel.reshape(-1, kernel.shape[-1])
            u = functools.reduce(lambda tree, name: tree[name], path.split("/"), stats)["u"]
            v = matrix @ np.float64(u)
            sigma = np.linalg.norm(matrix.T @ (v / np.linalg.norm(v)))  # one power-iteration step
            kernel = kernel / sigma
        sides = (image_size if path == "conv1" else grid_side(path, side),) * 2
        expected = reference_matrix_norm(kernel), reference_operator_norm(kernel, *sides)
        np.testing.assert_allclose(np.float32(got[path]), expected, rtol=1e-4, err_msg=path)
        assert spectral_norm == (expected[0] < 1.02)
        if spectral_norm:
            assert expected[1] <= 1.02 * np.sqrt(kernel.shape[0] * kernel.shape[1])


def test_grids_of_a_bottleneck_have_the_stride_in_the_middle():
    encoder = ResNet(*ARCHITECTURES["resnet50"], width=2)
    images = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(functools.partial(encoder.init, train=False), jax.random.key(0), images)
    grids = {}

    def find(variables):
        encode = functools.partial(encoder.apply, variables, train=False)
        grids.update(conv_norms.input_grids(encode, 64))

    for _ in range(2):
        jax.eval_shape(find, shapes)
    assert len(grids) == 53
    expected = {"conv1": 64, "layer1_0/conv1": 16, "layer2_0/conv1": 16, "layer2_0/conv2": 16}
    expected |= {"layer2_0/conv3": 8, "layer2_0/downsample_conv": 16, "layer4_2/conv2": 2}
    assert {path: grids[path] for path in expected} == {p: (n, n) for p, n in expected.items()}


def test_an_encoder_without_convolutions_has_no_norms():
    dense = nn.Dense(3)
    encode = lambda images: dense.apply(variables, images.reshape(1, -1))  # noqa: E731
    variables = dense.init(jax.random.key(0), jnp.zeros((1, 48)))
    assert conv_norms.encoder_norms(encode, variables["params"], {}, image_size=4) == {}
