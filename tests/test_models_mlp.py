"""The MLP against float64 NumPy, with batch normalisation over views and groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batch_norm_reference import reference

from iecl_jax.configs import imagenet_r50
from iecl_jax.models import build
from iecl_jax.models.mlp import MLP


def _mlp_reference(params, views, group, hidden_bn, output_bn):
    """Row 18: hidden layers Dense-[BN]-ReLU, the output Dense-[BN without scale and bias]."""
    params, x, means = jax.tree.map(np.float64, params), views, {}
    for i in range(1, 4):
        last, dense = i == 3, params[f"dense{i}"]
        x = x @ dense["kernel"]
        if output_bn if last else hidden_bn:
            x, means[f"bn{i}"], _ = reference(x, group, **({} if last else params[f"bn{i}"]))
        else:
            x = x + dense["bias"]
        if not last:
            x = np.maximum(x, 0)
    return x, means


def _mlp_variables(mlp, features):
    """Random parameters, biases too, and running statistics of 0, in the shapes of `mlp.init`."""
    shapes = jax.eval_shape(
        functools.partial(mlp.init, train=True), jax.random.key(0), jnp.zeros((8, features))
    )
    rng = np.random.default_rng(3)
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    return zeros | {
        "params": jax.tree.map(lambda s: np.float32(rng.normal(size=s.shape)), shapes["params"])
    }


def _shapes(params):
    return {name: {k: leaf.shape for k, leaf in leaves.items()} for name, leaves in params.items()}


def _apply(mlp, variables, x):
    fn = functools.partial(
        mlp.apply, train=True, num_views=2, running_views=1, mutable=["batch_stats"]
    )
    return jax.jit(fn)(variables, x)


@pytest.mark.parametrize(
    "hidden_bn, output_bn, group",
    [(True, True, 0), (True, True, 4), (True, False, 4), (False, True, 0), (False, False, 0)],
)
def test_mlp(hidden_bn, output_bn, group):
    mlp = MLP(3, 6, 5, hidden_bn=hidden_bn, output_bn=output_bn, bn_group=group)
    rng = np.random.default_rng(2)
    views = rng.normal(size=(2, 8, 4)) + rng.normal(size=(2, 1, 1))
    variables = _mlp_variables(mlp, features=4)
    params = variables["params"]
    bias = {True: {}, False: {"bias": (6,)}}[hidden_bn]
    norms = {"scale": (6,), "bias": (6,)}
    assert _shapes(params) == {
        "dense1": {"kernel": (4, 6)} | bias,
        "dense2": {"kernel": (6, 6)} | bias,
        "dense3": {"kernel": (6, 5)} | ({} if output_bn else {"bias": (5,)}),
    } | ({"bn1": norms, "bn2": norms} if hidden_bn else {})
    got, new = _apply(mlp, variables, np.float32(views.reshape(16, 4)))
    expected, means = _mlp_reference(params, views, group or 8, hidden_bn, output_bn)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected.reshape(16, 5), rtol=1e-3, atol=1e-4)
    moved = new.get("batch_stats", {})
    assert set(moved) == set(means)
    for name, mean in means.items():
        np.testing.assert_allclose(moved[name]["mean"], 0.1 * mean[0].mean(0), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("output_bn", [True, False])
def test_half_precision_layers_have_a_float32_output(output_bn):
    mlp = MLP(2, 64, 16, output_bn=output_bn, dtype=jnp.bfloat16)
    x = np.float32(np.random.default_rng(4).normal(size=(32, 8)))
    variables = _mlp_variables(mlp, features=8)
    got = _apply(mlp, variables, x)[0]
    full = _apply(mlp.clone(dtype=jnp.float32), variables, x)[0]
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, full, atol=0.03 * np.abs(full).max())
    collect = {"mutable": ["batch_stats", "intermediates"], "capture_intermediates": True}
    _, collected = jax.eval_shape(
        functools.partial(mlp.apply, train=True, **collect), variables, jnp.asarray(x)
    )
    layers = dict(collected["intermediates"])
    assert layers.pop("__call__")[0].dtype == jnp.float32
    types = {name: layer["__call__"][0].dtype for name, layer in layers.items()}
    expected = dict.fromkeys(("dense1", "bn1", "dense2"), jnp.bfloat16)
    assert types == expected | ({"bn2": jnp.float32} if output_bn else {})


def test_the_last_norm_may_have_a_scale_and_a_bias():
    mlp = MLP(2, 6, 5, output_affine=True)
    x = np.float32(np.random.default_rng(0).normal(size=(8, 4)))
    variables = _mlp_variables(mlp, features=4)
    last = variables["params"].pop("bn2")
    got = _apply(mlp, variables | {"params": variables["params"] | {"bn2": last}}, x)[0]
    plain = np.asarray(_apply(mlp.clone(output_affine=False), variables, x)[0])
    np.testing.assert_allclose(got, plain * last["scale"] + last["bias"], rtol=1e-4, atol=1e-5)


def test_heads_of_a_config():
    config = imagenet_r50.get_config("100")
    config.encoder.bn_group = 2
    config.projector.update({"num_layers": 2, "hidden_dim": 6, "output_dim": 5})
    config.projector.update({"hidden_bn": False, "output_bn": True})
    config.method.predictor = {"num_layers": 2, "hidden_dim": 3}
    projector = build.projector(config, "devices")
    assert projector == MLP(2, 6, 5, hidden_bn=False, bn_group=2, axis_name="devices")
    predictor = build.predictor(config, "devices")
    assert predictor == MLP(2, 3, 5, output_bn=False, bn_group=2, axis_name="devices")
    config.train.precision = "bfloat16"
    assert {build.projector(config).dtype, build.predictor(config).dtype} == {jnp.bfloat16}
