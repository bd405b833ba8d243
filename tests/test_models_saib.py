"""SAIB against float64 NumPy loops written from section 3.3 and appendix C."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iecl_jax.models.saib import SAIB, patchify, unpatchify

GROUP, PATCH, SIDE = 2, 4, 8
SHAPE = (4, SIDE, SIDE, 3)  # two groups


def _patchify(images, g, p):
    """P[group, (channel, patch row, patch column), pixel, member], index by index."""
    b, height, width, channels = images.shape
    rows, columns = height // p, width // p
    patches = np.zeros((b // g, channels * rows * columns, p * p, g), images.dtype)
    for n, y, x, c in np.ndindex(images.shape):
        row = (c * rows + y // p) * columns + x // p
        patches[n // g, row, (y % p) * p + x % p, n % g] = images[n, y, x, c]
    return patches


@pytest.mark.parametrize("shape, g, p", [((4, 8, 8, 3), 2, 4), ((6, 4, 6, 2), 3, 2)])
def test_patchify_is_the_index_loop_and_unpatchify_its_inverse(shape, g, p):
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    patches = jax.jit(patchify, static_argnums=(1, 2))(images, g, p)
    np.testing.assert_array_equal(patches, _patchify(images, g, p))
    back = jax.jit(unpatchify, static_argnums=(1, 2))(patches, shape, p)
    np.testing.assert_array_equal(back, images)


def _conv3x3(x, kernel):
    """Zero-padded 3x3 convolution over (rows, pixels)."""
    groups, rows, pixels, _ = x.shape
    y = np.zeros((groups, rows, pixels, kernel.shape[-1]))
    for r, q, i, j in np.ndindex(rows, pixels, 3, 3):
        if 0 <= r + i - 1 < rows and 0 <= q + j - 1 < pixels:
            y[:, r, q] += x[:, r + i - 1, q + j - 1] @ kernel[i, j]
    return y


def _block(params, images, *, inner_skip, stats=None, moments=None):
    params = jax.tree.map(np.float64, params)

    def norm(x, name):
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        if moments is not None:
            moments[name] = mean, var
        if stats is not None:
            mean, var = stats[name]["mean"], stats[name]["var"]
        return (x - mean) / np.sqrt(var + 1e-5) * params[name]["scale"] + params[name]["bias"]

    def swish(x):
        return x / (1 + np.exp(-x))

    p = _patchify(images, GROUP, PATCH) + params["positions"]
    a = swish(norm(p @ params["conv1"][0, 0], "bn1"))
    f = swish(norm(_conv3x3(a, params["conv2"]), "bn2"))
    f = swish(norm(f @ params["conv3"][0, 0], "bn3"))
    f = norm(f @ params["conv4"][0, 0], "bn4")
    p = p + a + f if inner_skip else p + f
    out = images.astype(np.float64)
    rows = columns = SIDE // PATCH
    for n, y, x, c in np.ndindex(images.shape):
        row = (c * rows + y // PATCH) * columns + x // PATCH
        out[n, y, x, c] += p[n // GROUP, row, (y % PATCH) * PATCH + x % PATCH, n % GROUP]
    return out


def _reference(params, images, *, num_blocks, inner_skip):
    for i in range(1, num_blocks + 1):
        images = _block(params[f"block{i}"], images, inner_skip=inner_skip)
    return images


@functools.cache
def _saib(num_blocks=1, inner_skip=True, train=True):
    """Compiled (variables, images) -> (output, new variables)."""
    saib = SAIB(GROUP, PATCH, num_blocks=num_blocks, inner_skip=inner_skip)
    return jax.jit(functools.partial(saib.apply, train=train, mutable=["batch_stats"]))


def _inputs(num_blocks=1, seed=0):
    """Random values for every parameter and statistic, and images."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=SHAPE).astype(np.float32)
    init = functools.partial(SAIB(GROUP, PATCH, num_blocks=num_blocks).init, train=True)
    shapes = jax.eval_shape(init, jax.random.key(0), images)

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        value = rng.uniform(0.5, 2, leaf.shape) if positive else rng.normal(size=leaf.shape)
        return np.float32(value)

    return jax.tree_util.tree_map_with_path(draw, shapes), images


@pytest.mark.parametrize("num_blocks, inner_skip", [(1, True), (1, False), (2, True)])
def test_training_forward_against_numpy(num_blocks, inner_skip):
    variables, images = _inputs(num_blocks)
    got, _ = _saib(num_blocks, inner_skip)(variables, images)
    expected = _reference(variables["params"], images, num_blocks=num_blocks, inner_skip=inner_skip)
    assert got.shape == SHAPE
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["gradient", "slices"])
def test_other_forms_of_the_3x3_convolution_against_numpy(form):
    variables, images = _inputs(seed=8)
    saib = SAIB(GROUP, PATCH, conv3x3=form)
    run = jax.jit(functools.partial(saib.apply, train=True, mutable=["batch_stats"]))
    expected = _reference(variables["params"], images, num_blocks=1, inner_skip=True)
    np.testing.assert_allclose(run(variables, images)[0], expected, rtol=1e-4, atol=1e-4)


def test_evaluation_and_running_statistics():
    variables, images = _inputs(seed=1)
    params, stats = variables["params"]["block1"], variables["batch_stats"]["block1"]
    got, kept = _saib(train=False)(variables, images)
    expected = _block(params, images, inner_skip=True, stats=stats)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"]["block1"], stats)

    moments: dict[str, Any] = {}
    _block(params, images, inner_skip=True, moments=moments)
    _, new = _saib()(variables, images)
    for name, (mean, var) in moments.items():
        moved = new["batch_stats"]["block1"][name]
        np.testing.assert_allclose(moved["mean"], 0.9 * stats[name]["mean"] + 0.1 * mean, rtol=1e-4)
        np.testing.assert_allclose(moved["var"], 0.9 * stats[name]["var"] + 0.1 * var, rtol=1e-4)


def test_one_set_of_parameters_for_any_number_of_groups():
    variables, images = _inputs(seed=2)
    init = functools.partial(SAIB(GROUP, PATCH).init, train=True)
    shapes = [
        jax.eval_shape(init, jax.random.key(0), jnp.zeros((b, *SHAPE[1:]))) for b in (2, 4, 12)
    ]
    assert shapes[0] == shapes[1] == shapes[2]
    assert shapes[0]["params"]["block1"]["conv2"].shape == (3, 3, GROUP, 2 * GROUP)
    assert shapes[0]["params"]["block1"]["positions"].shape == (1, 12, 16, 1)

    one, _ = _saib()(variables, images[:GROUP])
    expected = _reference(variables["params"], images[:GROUP], num_blocks=1, inner_skip=True)
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)

    both, _ = _saib()(variables, images)  # groups see each other through BN statistics alone
    swapped, _ = _saib()(variables, np.roll(images, GROUP, 0))
    np.testing.assert_allclose(np.roll(both, GROUP, 0), swapped, rtol=1e-4, atol=1e-4)
    moved = images.copy()
    moved[0] += 1
    alone = [_saib(train=False)(variables, x)[0] for x in (images, moved)]
    changed = abs(np.asarray(alone[0]) - np.asarray(alone[1])).max((1, 2, 3)) > 0
    assert changed.tolist() == [True, True, False, False]


def test_two_devices_are_one():
    variables, images = _inputs(seed=3)
    saib = SAIB(GROUP, PATCH, axis_name="devices")
    fn = functools.partial(saib.apply, train=True, mutable=["batch_stats"])
    on_two = jax.pmap(
        lambda v, x: fn(v, x), axis_name="devices", in_axes=(None, 0), devices=jax.devices()[:2]
    )
    got, new = on_two(variables, images.reshape(2, GROUP, *SHAPE[1:]))
    expected, expected_new = _saib()(variables, images)
    np.testing.assert_allclose(got.reshape(SHAPE), expected, rtol=1e-4, atol=1e-5)
    for device in range(2):
        jax.tree.map(
            lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-5, atol=1e-6),
            new,
            expected_new,
        )


def test_gradient_of_every_parameter_against_finite_differences():
    """Along a random direction of each leaf; a kernel before BN has no gradient along itself."""
    variables, images = _inputs(seed=4)
    rng = np.random.default_rng(5)
    weights = rng.normal(size=SHAPE)
    saib = SAIB(GROUP, PATCH)

    @jax.jit
    def gradients(params, images):
        def loss(params, images):
            y = saib.apply({"params": params}, images, train=True, mutable=["batch_stats"])[0]
            return (y * jnp.asarray(weights, jnp.float32)).sum()

        return jax.grad(loss, (0, 1))(params, images)

    def reference(params, images):
        return (_reference(params, images, num_blocks=1, inner_skip=True) * weights).sum()

    args = jax.tree.map(np.float64, (variables["params"], images))
    got = gradients(variables["params"], images)
    leaves, structure = jax.tree.flatten(args)
    step = 1e-5
    for i, (path, gradient) in enumerate(jax.tree_util.tree_leaves_with_path(got)):
        name = jax.tree_util.keystr(path)
        gradient = np.float64(gradient)
        direction = rng.normal(size=gradient.shape)
        values = []
        for sign in (1, -1):
            moved = [*leaves]
            moved[i] = leaves[i] + sign * step * direction
            values.append(reference(*jax.tree.unflatten(structure, moved)))
        numeric = (values[0] - values[1]) / (2 * step)
        tolerance = 1e-3 * float(np.linalg.norm(gradient))
        assert (gradient * direction).sum() == pytest.approx(numeric, abs=tolerance, rel=1e-3), name
        assert np.linalg.norm(gradient) > 0.1, name
        if "conv" in name:
            size = np.linalg.norm(gradient) * np.linalg.norm(leaves[i])
            assert abs((gradient * leaves[i]).sum()) < 1e-2 * size, name


def test_initial_scale_of_the_residual():
    """With scale 0 and no inner skip, X' = 2 X + positions."""
    saib = SAIB(GROUP, PATCH, inner_skip=False, residual_scale=0.0)
    images = jnp.asarray(np.random.default_rng(6).normal(size=SHAPE), jnp.float32)

    @jax.jit
    def run(key):
        variables = saib.init(key, images, train=True)
        return variables["params"]["block1"], saib.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )[0]

    params, got = run(jax.random.key(0))
    pixels = np.broadcast_to(params["positions"], (2, 12, 16, GROUP))
    positions = unpatchify(jnp.asarray(pixels), SHAPE, PATCH)
    np.testing.assert_allclose(got, 2 * images + positions, rtol=1e-5, atol=1e-6)
    scales = [float(params[f"bn{i}"]["scale"][0]) for i in (1, 2, 3, 4)]
    assert scales == [1, 1, 1, 0]
    assert abs(positions).max() > 0.02


def test_bfloat16_computes_in_bfloat16_and_returns_the_type_of_the_images():
    variables, images = _inputs(seed=7)
    saib = SAIB(GROUP, PATCH, dtype=jnp.bfloat16)
    apply = jax.jit(functools.partial(saib.apply, train=True, mutable=["batch_stats"]))
    got, new = apply(variables, images)
    assert got.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.float32)}
    expected = _reference(variables["params"], images, num_blocks=1, inner_skip=True)
    error = abs(np.asarray(got) - expected).max() / abs(expected).max()
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize(
    "shape, words",
    [
        ((3, 8, 8, 3), "saib.group_size=2 does not divide the 3 images"),
        ((4, 8, 6, 3), "saib.patch_size=4 does not divide images of 8 x 6"),
        ((4, 10, 8, 3), "saib.patch_size=4 does not divide images of 10 x 8"),
    ],
)
def test_shapes_that_do_not_fit_raise(shape, words):
    init = functools.partial(SAIB(GROUP, PATCH).init, train=True)
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))
