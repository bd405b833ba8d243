"""The steps of power iteration of all kernels together: those of each kernel alone, in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from test_models_conv_resnet import _power_step, _unit

from iecl_jax.models.conv import power_iteration, spectral_norms
from iecl_jax.models.encoders.resnet import ResNet


def test_the_steps_of_all_kernels_together_are_those_of_each_alone():
    """Kernels of several shapes, with the gradient of a function of all normalised kernels."""
    rng = np.random.default_rng(4)
    shapes = {"conv1": (3, 3, 3, 4), "layer/conv1": (1, 1, 4, 7), "layer/conv2": (3, 3, 4, 7)}
    flat: dict[str, Any] = {"params": {}, "batch_stats": {}, "weights": {}}
    for name, shape in shapes.items():
        u = np.float32(_unit(rng.normal(size=shape[-1])))
        flat["params"][f"{name}/kernel"] = np.float32(rng.normal(size=shape))
        flat["batch_stats"] |= {f"{name}/u": u, f"{name}/sigma": np.float32(7)}
        flat["weights"][name] = np.float32(rng.normal(size=shape))
    flat["batch_stats"] |= {"layer/bn1/mean": np.zeros(4), "bn1/var": np.ones(4)}
    params, stats, weights = (traverse_util.unflatten_dict(x, sep="/") for x in flat.values())

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        norms = spectral_norms(params, stats)
        kernels = [(params["conv1"], norms["conv1"], weights["conv1"])]
        for name in ("conv1", "conv2"):
            kernels.append(tuple(tree["layer"][name] for tree in (params, norms, weights)))
        return sum((p["kernel"] / step[0] * w).sum() for p, step, w in kernels), norms

    got, norms = gradient(params)
    assert set(norms) == {"conv1", "layer"}
    assert set(norms["layer"]) == {"conv1", "conv2"}
    found = traverse_util.flatten_dict(got, sep="/"), traverse_util.flatten_dict(norms, sep="/")
    for name, weight in flat["weights"].items():
        kernel = np.float64(flat["params"][f"{name}/kernel"])
        sigma, new_u, v = _power_step(kernel, flat["batch_stats"][f"{name}/u"])
        np.testing.assert_allclose(found[1][name][0], sigma, rtol=1e-5)
        np.testing.assert_allclose(found[1][name][1], new_u, rtol=1e-4, atol=1e-6)
        inner = (weight * kernel).sum() / sigma
        expected = (weight - inner * np.outer(v, new_u).reshape(kernel.shape)) / sigma
        np.testing.assert_allclose(found[0][f"{name}/kernel"], expected, rtol=1e-4, atol=1e-5)
        matrix, u = kernel.reshape(-1, shapes[name][-1]), flat["batch_stats"][f"{name}/u"]
        alone = power_iteration(jnp.asarray(matrix, jnp.float32), jnp.asarray(u))
        for one, together in zip(alone, found[1][name], strict=True):
            np.testing.assert_allclose(one, together, rtol=1e-5, atol=1e-6)


def test_a_network_moves_each_vector_by_one_step():
    net = ResNet((1,), False, width=4, stem="cifar", spectral_norm=True)
    rng = np.random.default_rng(7)
    x = jnp.asarray(rng.normal(size=(2, 8, 8, 3)), jnp.float32)
    shapes = jax.eval_shape(functools.partial(net.init, train=True), jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)
    run = functools.partial(net.apply, train=True, mutable=["batch_stats"])
    moved = jax.jit(lambda variables: run(variables, x)[1]["batch_stats"])(variables)
    before, after, kernels = (
        traverse_util.flatten_dict(tree, sep="/")
        for tree in (variables["batch_stats"], moved, variables["params"])
    )
    names = [name.removesuffix("u") for name in before if name.endswith("/u")]
    assert len(names) == 3
    for name in names:
        sigma, u, _ = _power_step(kernels[f"{name}kernel"], before[f"{name}u"])
        np.testing.assert_allclose(after[f"{name}sigma"], sigma, rtol=1e-5)
        np.testing.assert_allclose(after[f"{name}u"], u, rtol=1e-4, atol=1e-6)
