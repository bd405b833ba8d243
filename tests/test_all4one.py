"""All4One's parts: its feature loss, transformer, encoding of places, neighbours and dropout.

tests/all4one.npz has inputs and outputs of solo-learn's program (vturrisi/solo-learn 9187ea3) with
torch 2.13 on the CPU, in float64: the encoding of places, the feature loss, and a transformer of 3
layers with 8 heads and 32 hidden units, without dropout.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient, value_and_grad

from iecl_jax.losses.redundancy import feature_correlation
from iecl_jax.methods import all4one
from iecl_jax.models.transformer import TransformerEncoder, encode_each

pytestmark = pytest.mark.quick

AUTHORS = np.load(pathlib.Path(__file__).with_name("all4one.npz"))


def _feature_loss(ema, online):
    """As the method has it, of both views [2, n, d]."""
    on, off = feature_correlation((ema[0], online[1]), (ema[1], online[0]))
    return 5 * (on + off)


def _feature_reference(ema, online):
    on, off = [], []
    for first, second in ((ema[0], online[1]), (ema[1], online[0])):
        for i in range(first.shape[1]):
            for j in range(first.shape[1]):
                a, b = first[:, i], second[:, j]
                cosine = (a @ b) / math.sqrt(a @ a) / math.sqrt(b @ b)
                (on if i == j else off).append((1 - cosine) ** 2 if i == j else cosine**2)
    return 5 * (math.sqrt(np.mean(on)) + math.sqrt(np.mean(off)))


def test_the_feature_loss_is_that_of_the_authors_program():
    loss, (_, gradient) = value_and_grad(_feature_loss, AUTHORS["ema"], AUTHORS["online"])
    np.testing.assert_allclose(loss, AUTHORS["feature_loss"], rtol=1e-6)
    np.testing.assert_allclose(gradient, AUTHORS["feature_grad"], rtol=1e-4, atol=1e-6)


def test_the_feature_loss_is_that_of_the_loop():
    rng = np.random.default_rng(3)
    ema, online = rng.normal(size=(2, 2, 7, 3)) * [0.2, 1.0, 3.0] + [0.3, 0.0, -1.0]
    loss, (to_ema, to_online) = value_and_grad(_feature_loss, ema, online)
    np.testing.assert_allclose(loss, _feature_reference(ema, online), rtol=1e-6)
    numeric = numeric_gradient(lambda x: _feature_reference(x, online), ema)
    np.testing.assert_allclose(to_ema, numeric, rtol=1e-3, atol=1e-5)
    numeric = numeric_gradient(lambda x: _feature_reference(ema, x), online)
    np.testing.assert_allclose(to_online, numeric, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "z", [np.zeros((2, 4, 3)), np.ones((2, 4, 3)), np.eye(4)[None].repeat(2, 0)]
)
def test_the_feature_loss_has_finite_gradients_at_its_limits(z):
    """No embedding at all, equal features, and the best there is."""
    loss, gradients = value_and_grad(_feature_loss, z, z)
    expected = 5 if not z.any() or z.all() else 0  # on = 1, off = 0; on = 0, off = 1; both 0
    np.testing.assert_allclose(loss, expected, atol=1e-4)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_a_single_feature_is_refused():
    with pytest.raises(ValueError, match="compares features, and there is 1: give it two"):
        feature_correlation((jnp.ones((4, 1)), jnp.ones((4, 1))))


def test_the_places_are_encoded_as_in_the_authors_program():
    # Theirs has angles up to 255 in float32.
    np.testing.assert_allclose(all4one.encoding(5, 256), AUTHORS["pe"], atol=3e-6)


def _transformer(dropout=0.0):
    return TransformerEncoder(num_layers=3, num_heads=8, hidden_dim=32, dropout=dropout)


def _parameters():
    """PyTorch's parameters under the names here; its kernels are [out, in]."""
    parts = {
        "self_attn.in_proj_": "attention_in",
        "self_attn.out_proj.": "attention_out",
        "linear1.": "dense1",
        "linear2.": "dense2",
    }
    norms = {"norm1.": "norm1", "norm2.": "norm2"}
    found = {}
    for i in range(3):
        for theirs, ours in (parts | norms).items():
            prefix = f"tf_param/layers.{i}.{theirs}"
            weight, bias = (jnp.float32(AUTHORS[prefix + kind]) for kind in ("weight", "bias"))
            name = {"scale": weight} if theirs in norms else {"kernel": weight.T}
            found[f"layer{i + 1}_{ours}"] = name | {"bias": bias}
    return found


def test_the_transformer_is_pytorchs():
    sequences = jnp.float32(AUTHORS["tf_in"])
    params = _parameters()
    made = jax.eval_shape(
        functools.partial(_transformer().init, deterministic=True), jax.random.key(0), sequences[0]
    )
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, dict(made["params"]))
    apply = jax.jit(functools.partial(_transformer(0.5).apply, deterministic=True))
    np.testing.assert_allclose(apply({"params": params}, sequences), AUTHORS["tf_out"], atol=2e-6)


def test_each_image_has_dropout_of_its_own():
    encoder, params = _transformer(0.3), _parameters()
    sequences = jnp.float32(np.random.default_rng(0).normal(size=(2, 4, 5, 16)))
    keys = jax.random.split(jax.random.key(1), 4)
    encode = jax.jit(functools.partial(encode_each, encoder, params))
    dropped = encode(sequences, keys)
    # Other images around it, in another place of the batch, change nothing for an image.
    alone = encode(sequences[:, ::-1].at[:, 1:].set(0), keys[::-1])
    np.testing.assert_allclose(alone[:, 0], dropped[:, 3], atol=1e-5)
    whole = encode(sequences, None)
    np.testing.assert_allclose(
        whole, encoder.apply({"params": params}, sequences, deterministic=True)
    )
    assert (np.abs(dropped - whole).max((2, 3)) > 1e-2).all()
    # Two equal sequences of an image drop different entries, and so do equal images.
    same = encode(jnp.broadcast_to(sequences[:1, :1], sequences.shape), keys)
    rows = np.asarray(same).reshape(8, -1)
    assert len(np.unique(rows.round(4), axis=0)) == 8
    means = [encode(sequences, jax.random.split(jax.random.key(i), 4)) for i in range(2)]
    assert (means[0] != means[1]).any()


def test_kernels_begin_with_pytorchs_spread():
    params = _transformer().init(jax.random.key(0), jnp.zeros((5, 64)), deterministic=True)[
        "params"
    ]
    bounds = {"attention_in": math.sqrt(6 / 256), "attention_out": 1 / 8, "dense1": 1 / 8}
    bounds["dense2"] = 1 / math.sqrt(32)
    for part, bound in bounds.items():
        kernel = np.abs(params[f"layer2_{part}"]["kernel"])
        assert 0.98 * bound < kernel.max() <= bound
        np.testing.assert_allclose(kernel.mean(), bound / 2, rtol=0.05)


def test_the_nearest_come_first_and_are_constants():
    rng = np.random.default_rng(0)
    support = rng.normal(size=(30, 3))
    support /= np.linalg.norm(support, axis=1, keepdims=True)
    z = rng.normal(size=(6, 3)) * rng.uniform(0.1, 10, (6, 1))
    cosines = z @ support.T / np.linalg.norm(z, axis=1, keepdims=True)
    order = np.argsort(-cosines, axis=1)[:, :4]

    def weighted(z):
        found = all4one.nearest(z, jnp.float32(support), 4)
        return found[1].sum() + found[2].sum(), found

    gradient, (numbers, rows, found) = jax.jit(jax.grad(weighted, has_aux=True))(jnp.float32(z))
    np.testing.assert_array_equal(numbers, order)
    np.testing.assert_array_equal(rows, np.float32(support)[order])
    np.testing.assert_allclose(found, np.take_along_axis(cosines, order, 1), rtol=1e-5)
    np.testing.assert_array_equal(gradient, np.zeros_like(z))
    shared = all4one.shared(jnp.int32([[1, 2, 3], [4, 5, 6]]), jnp.int32([[3, 9, 1], [7, 8, 9]]))
    np.testing.assert_array_equal(shared, [[1, 0, 1], [0, 0, 0]])
