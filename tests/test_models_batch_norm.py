"""Batch normalisation over views, groups and devices, against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_norm_reference import EPSILON, normalise, reference

from iecl_jax.models import batch_norm
from iecl_jax.models.batch_norm import BatchNorm

MOMENTUM = 0.9


def _to_devices(views, devices):
    """[V, B, ...] -> [D, V * B / D, ...], the layout of the batch on each device."""
    v, b = views.shape[:2]
    split = views.reshape(v, devices, b // devices, *views.shape[2:]).swapaxes(0, 1)
    return split.reshape(devices, -1, *views.shape[2:])


def _from_devices(x, num_views):
    """Inverse of `_to_devices`."""
    split = x.reshape(len(x), num_views, -1, *x.shape[2:]).swapaxes(0, 1)
    return split.reshape(num_views, -1, *x.shape[2:])


@functools.cache
def _compiled(devices, num_views, running_views, group):
    """(variables, x, cotangent) [D, ...] -> (y, statistics, gradients), training mode."""
    norm = BatchNorm(
        use_running_average=False,
        num_views=num_views,
        running_views=running_views,
        group_size=group,
        axis_name="devices",
    )

    def fn(variables, x, cotangent):
        def loss(params, x):
            y, new = norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])
            return (y * cotangent).sum(), (y, new["batch_stats"])

        (_, aux), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
        return *aux, jax.lax.psum(gradients[0], "devices"), gradients[1]

    return jax.pmap(fn, axis_name="devices", in_axes=(None, 0, 0), devices=jax.devices()[:devices])


def _inputs(num_views, images=8, channels=2, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.normal(size=(num_views, images, 3, channels)) * [1.0, 3.0] + [2.0, -1.0]
    views += rng.normal(size=(num_views, images, 1, 1))  # groups and views differ
    variables = {
        "params": {"scale": rng.uniform(0.5, 2, channels), "bias": rng.normal(size=channels)},
        "batch_stats": {"mean": rng.normal(size=channels), "var": rng.uniform(1, 2, channels)},
    }
    return views, variables, rng.normal(size=views.shape)


def _run(devices, views, variables, cotangent, running_views, group):
    fn = _compiled(devices, len(views), running_views, group)
    arrays = [np.float32(_to_devices(a, devices)) for a in (views, cotangent)]
    variables = jax.tree.map(np.float32, variables)
    y, stats, param_gradients, x_gradient = fn(variables, *arrays)
    for leaf in jax.tree.leaves((stats, param_gradients)):  # the same on every device
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    replicated = jax.tree.map(lambda leaf: np.asarray(leaf[0]), (stats, param_gradients))
    y, x_gradient = (_from_devices(np.asarray(a), len(views)) for a in (y, x_gradient))
    return y, *replicated, x_gradient


def _numeric_gradients(views, variables, cotangent, group, step=1e-5):
    arrays = [variables["params"]["scale"], variables["params"]["bias"], views]
    gradients = []
    for array in arrays:
        gradient = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            values, original = [], array[i]
            for sign in (1, -1):
                array[i] = original + sign * step
                y = reference(arrays[2], group, *arrays[:2])[0]
                values.append((y * cotangent).sum())
            array[i] = original
            gradient[i] = (values[0] - values[1]) / (2 * step)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize(
    "num_views, running_views, group", [(1, 1, 0), (2, 1, 0), (2, 2, 2), (2, 1, 4), (3, 2, 8)]
)
def test_training_on_one_and_two_devices(num_views, running_views, group):
    views, variables, cotangent = _inputs(num_views, seed=group + num_views)
    params, running = variables["params"], variables["batch_stats"]
    y, means, variances = reference(views, group or 8, params["scale"], params["bias"])
    moved = {
        "mean": MOMENTUM * running["mean"] + (1 - MOMENTUM) * means[:running_views].mean((0, 1)),
        "var": MOMENTUM * running["var"] + (1 - MOMENTUM) * variances[:running_views].mean((0, 1)),
    }
    scale, bias, x = _numeric_gradients(views, variables, cotangent, group or 8)
    for devices in (1, 2):
        got_y, stats, gradients, x_gradient = _run(
            devices, views, variables, cotangent, running_views, group
        )
        np.testing.assert_allclose(got_y, y, rtol=1e-4, atol=2e-5)
        assert set(stats) == {"mean", "var"}
        for name, value in moved.items():
            np.testing.assert_allclose(stats[name], value, rtol=1e-5)
        np.testing.assert_allclose(gradients["scale"], scale, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradients["bias"], bias, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(x_gradient, x, rtol=1e-3, atol=1e-4)


def _input_gradient(views, cotangent, group):
    """The derivative by the inputs of `reference`, of scale 1: closed form."""
    gradient = np.empty_like(views)
    for v in range(len(views)):
        for start in range(0, views.shape[1], group):
            block = slice(start, start + group)
            y, _, variance = normalise(views[v, block])
            c = cotangent[v, block]
            axes = tuple(range(c.ndim - 1))
            centred = c - c.mean(axes) - y * (c * y).mean(axes)
            gradient[v, block] = centred / np.sqrt(variance + EPSILON)
    return gradient


@pytest.mark.parametrize("group", [0, 2, 8])
@pytest.mark.parametrize("ratio", [100, 1000, -3000])
def test_no_digits_are_lost_where_the_mean_is_large_beside_the_deviation(ratio, group):
    """E[x^2] - E[x]^2 is 19 % off at 1000, and 0 further out."""
    rng = np.random.default_rng(0)
    # The difference of the devices' means is as large as the deviation inside of each.
    views = rng.normal(size=(1, 16, 3, 2)) + np.arange(16).reshape(16, 1, 1) // 8
    views = np.float64(np.float32(views + ratio))  # what float32 holds
    cotangent = rng.normal(size=views.shape)
    variables = {
        "params": {"scale": np.ones(2), "bias": np.zeros(2)},
        "batch_stats": {"mean": np.zeros(2), "var": np.zeros(2)},
    }
    expected, _, variances = reference(views, group or 16)
    gradient = _input_gradient(views, cotangent, group or 16)
    for devices in (1, 2):
        y, stats, _, got = _run(devices, views, variables, cotangent, 1, group)
        rounding = 4e-7 * abs(ratio)  # of the mean, in deviations
        np.testing.assert_allclose(y, expected, atol=rounding)
        np.testing.assert_allclose(stats["var"], 0.1 * variances.mean((0, 1)), rtol=rounding)
        np.testing.assert_allclose(got, gradient, rtol=1e-3, atol=1e-6 * abs(ratio))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_backward_pass_stores_no_second_array_of_the_size_of_x(dtype):
    """x - mean beside x took 1.7 times the memory of a step of ResNet-50 on a GPU."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 5, 3)) + 2, dtype)
    norm = BatchNorm(use_running_average=False, num_views=2, dtype=dtype)
    variables = norm.init(jax.random.key(0), x)

    def fn(params, x):
        return norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]

    pullback = jax.vjp(fn, variables["params"], x)[1]
    stored = [leaf for leaf in jax.tree.leaves(pullback) if leaf.size >= x.size]
    assert stored
    for leaf in stored:  # XLA computes a copy of another shape or type from x again
        np.testing.assert_array_equal(np.float32(leaf).ravel(), np.float32(x).ravel())


@pytest.mark.parametrize("group", [0, 2])
def test_forward_derivatives_agree_with_backward_ones(group):
    views, _, cotangent = _inputs(2)
    tangent = np.random.default_rng(1).normal(size=views.shape)
    norm = BatchNorm(use_running_average=False, num_views=2, group_size=group, affine=False)
    x, dx = (np.float32(a.reshape(16, 3, 2)) for a in (views, tangent))
    got = jax.jvp(lambda x: norm.apply({}, x, mutable=["batch_stats"])[0], (x,), (dx,))[1]
    expected = (_input_gradient(views, cotangent, group or 8) * tangent).sum()
    np.testing.assert_allclose((got.reshape(views.shape) * cotangent).sum(), expected, rtol=1e-3)


@pytest.mark.parametrize("ratio", [0, 1000, -3000])
def test_one_pass_over_memory_keeps_the_digits(ratio):
    """Also where the rows that give a first guess of the mean are the ones that differ most."""
    x = np.float32(np.random.default_rng(0).normal(size=(2, 3, 160, 2)) + ratio)
    x[1, 0, ::16] += 40
    mean, var = jax.jit(batch_norm.one_pass)(x)
    np.testing.assert_allclose(mean, np.float64(x).mean(2), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(var, np.float64(x).var(2), rtol=2e-5)
    for got, other in zip(jax.jit(batch_norm.two_passes)(x), (mean, var), strict=True):
        np.testing.assert_allclose(got, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("average", [False, True])
def test_a_relu_inside_is_one_after_it(average):
    views, variables, cotangent = _inputs(2)
    x, cotangent = (np.float32(a.reshape(16, 3, 2)) for a in (views, cotangent))
    variables = jax.tree.map(np.float32, variables)

    def fn(params, x, relu):
        norm = BatchNorm(use_running_average=average, num_views=2, group_size=4, relu=relu)
        y = norm.apply(variables | {"params": params}, x, mutable=["batch_stats"])[0]
        y = y if relu else jnp.maximum(y, 0)
        return (y * cotangent).sum(), y

    gradients = jax.jit(jax.value_and_grad(fn, (0, 1), has_aux=True), static_argnums=2)
    inside, after = (gradients(variables["params"], x, relu) for relu in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), inside, after)
    tangents = jax.jvp(lambda x: fn(variables["params"], x, True)[1], (x,), (cotangent,))[1]
    expected = jax.jvp(lambda x: fn(variables["params"], x, False)[1], (x,), (cotangent,))[1]
    np.testing.assert_allclose(tangents, expected, rtol=1e-4, atol=1e-5)


def test_collapsed_features_are_normalised_exactly():
    """What a diagnosis of collapse looks at: features 1 + 0.001 noise, through Dense and BN."""
    rng = np.random.default_rng(0)
    features = 1 + 1e-3 * rng.normal(size=(256, 512))
    x = np.float32(features @ (rng.normal(size=(512, 16)) / np.sqrt(512)))
    norm = BatchNorm(use_running_average=False, affine=False)
    got = jax.jit(lambda x: norm.apply({}, x, mutable=["batch_stats"])[0])(x)
    np.testing.assert_allclose(got, normalise(np.float64(x))[0], atol=1e-3)


def test_views_are_separate_calls():
    views, variables, cotangent = _inputs(2)
    together = _run(1, views, variables, cotangent, 1, 0)[0]
    for v in range(2):
        alone = _run(1, views[v : v + 1], variables, cotangent[v : v + 1], 1, 0)[0]
        np.testing.assert_allclose(together[v], alone[0], rtol=1e-5, atol=1e-6)


def test_evaluation_uses_and_keeps_the_running_statistics():
    views, variables, _ = _inputs(1)
    variables = jax.tree.map(np.float32, variables)
    norm = BatchNorm(use_running_average=True, group_size=5, axis_name="unbound")
    apply = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))
    y, new = apply(variables, np.float32(views[0]))
    running, params = variables["batch_stats"], variables["params"]
    expected = (views[0] - running["mean"]) / np.sqrt(np.float64(running["var"]) + EPSILON)
    np.testing.assert_allclose(y, expected * params["scale"] + params["bias"], rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], running)


@pytest.mark.parametrize("dtype, tolerance", [(jnp.bfloat16, 2e-2), (jnp.float16, 2e-3)])
def test_half_precision_input_has_float32_statistics(dtype, tolerance):
    x = np.random.default_rng(1).normal(size=(64, 5, 2)) * [1, 20] + [5, 0]
    rounded = jnp.asarray(x, dtype)
    norm = BatchNorm(use_running_average=False, momentum=0.0, affine=False, dtype=dtype)
    variables = jax.jit(norm.init)(jax.random.key(0), rounded)
    assert set(variables) == {"batch_stats"}  # affine=False has no parameters
    y, new = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))(variables, rounded)
    expected, mean, variance = normalise(np.asarray(rounded, np.float64))
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=tolerance, atol=tolerance)
    assert new["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(new["batch_stats"]["mean"], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], variance, rtol=1e-4)


def test_constant_channel_is_finite():
    norm = BatchNorm(use_running_average=False, affine=False)
    x = np.full((4, 3, 2), 300.7, np.float32)
    y = jax.jit(lambda x: norm.apply({}, x, mutable=["batch_stats"])[0])(x)
    np.testing.assert_allclose(y, 0, atol=0.01)


def test_initialising_keeps_the_running_statistics():
    half = jax.nn.initializers.constant(0.5)
    norm = BatchNorm(use_running_average=False, axis_name="unbound", scale_init=half)
    variables = jax.jit(norm.init)(jax.random.key(0), np.full((4, 2), 7, np.float32))
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], [0, 0])
    np.testing.assert_array_equal(variables["batch_stats"]["var"], [1, 1])
    np.testing.assert_array_equal(variables["params"]["scale"], [0.5, 0.5])


@pytest.mark.parametrize("group", [3, 6])
def test_group_that_does_not_fit_raises(group):
    norm = BatchNorm(use_running_average=False, num_views=2, group_size=group)
    x = jnp.zeros((8, 2))
    variables = norm.init(jax.random.key(0), x)  # which takes any number of images
    with pytest.raises(ValueError, match=f"bn_group={group} neither divides .* the 4 images"):
        norm.apply(variables, x, mutable=["batch_stats"])
