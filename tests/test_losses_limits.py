"""What is known of the methods' losses without a reference: limits, invariances, types, errors."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import value_and_grad

from iecl_jax.losses import contrastive, redundancy, similarity, whitening

pytestmark = pytest.mark.quick


def _nt_xent(first, second):
    views = jnp.stack([first, second])
    return contrastive.nt_xent(views, views, jnp.arange(len(first)), temperature=0.4)


def _whiten(first, second):
    return whitening.whiten(first, size=8), whitening.whiten(second, size=8)


LOSSES = {
    "nt_xent": _nt_xent,
    "negative_cosine": lambda a, b: (similarity.negative_cosine(a, b),),
    "barlow_twins": redundancy.barlow_twins,
    "vicreg": redundancy.vicreg,
}


@functools.cache
def _jitted(name):
    return jax.jit({**LOSSES, "whiten": _whiten}[name])


def _values(name, *views):
    return [np.asarray(v) for v in _jitted(name)(*(jnp.asarray(z, jnp.float32) for z in views))]


def _views(seed=0, n=8, d=3):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(n, d)) * rng.uniform(0.3, 2, d) + rng.normal(size=d)
    return first, first + 0.5 * rng.normal(size=(n, d))


def _assert_equal(got, expected, tolerance=1e-4):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LOSSES)
def test_views_may_be_exchanged_and_images_reordered(name):
    first, second = _views()
    expected = _values(name, first, second)
    _assert_equal(_values(name, second, first), expected)
    order = np.random.default_rng(1).permutation(len(first))
    _assert_equal(_values(name, first[order], second[order]), expected)
    mispaired = _values(name, first[order], second)
    assert abs(mispaired[0] - expected[0]) > 1e-2  # the pairing does matter


@pytest.mark.parametrize("name", ["nt_xent", "negative_cosine"])
def test_cosine_losses_ignore_the_length_of_each_embedding(name):
    first, second = _views()
    lengths = np.random.default_rng(2).uniform(0.01, 100, size=(2, len(first), 1))
    expected = _values(name, first, second)
    _assert_equal(_values(name, lengths[0] * first, lengths[1] * second), expected, 1e-5)


def test_what_an_affine_map_of_the_dimensions_does():
    """Barlow Twins ignores shift and scale, VICReg a shift, whitening a lower triangular map."""
    first, second = _views()
    shift, scale = np.array([3.0, -1, 2]), np.array([0.5, 4, 2])
    barlow = _values("barlow_twins", first, second)
    _assert_equal(_values("barlow_twins", first * scale + shift, second * 3), barlow, 1e-3)
    vicreg = _values("vicreg", first, second)
    _assert_equal(_values("vicreg", first + shift, second + shift), vicreg, 1e-3)
    triangular = np.array([[2.0, 0, 0], [1, 0.5, 0], [-1, 2, 3]])
    whitened = _values("whiten", first, second)
    moved = _values("whiten", first @ triangular.T + shift, second)
    _assert_equal(moved, whitened, 2e-3)


def test_nt_xent_of_equal_embeddings_is_the_log_of_the_number_of_others():
    loss, _ = _values("nt_xent", np.ones((8, 3)), np.ones((8, 3)))
    np.testing.assert_allclose(loss, math.log(15), rtol=1e-6)


def test_nt_xent_of_aligned_views_of_orthogonal_images():
    """The positive has cosine 1 and 14 negatives cosine 0; it is the nearest of every anchor."""
    loss, top1 = _values("nt_xent", np.eye(8), 3 * np.eye(8))
    np.testing.assert_allclose(loss, math.log(math.exp(1 / 0.4) + 14) - 1 / 0.4, rtol=1e-5)
    assert top1 == 1
    _, top1 = _values("nt_xent", np.eye(8), -np.eye(8))
    assert top1 == 0


def test_nt_xent_of_one_image_has_no_negatives():
    assert _values("nt_xent", np.ones((1, 3)), np.array([[1.0, 0, 0]])) == [0, 1]


@pytest.mark.parametrize("name", ["barlow_twins", "vicreg"])
def test_one_image_has_no_variance(name):
    with pytest.raises(ValueError, match=f"{name} compares the rows of a batch, and there is 1"):
        _values(name, np.ones((1, 3)), np.ones((1, 3)))


def test_negative_cosine_of_aligned_opposed_and_orthogonal_embeddings():
    first = _views()[0]
    assert _values("negative_cosine", first, 2 * first)[0] == pytest.approx(-1, abs=1e-6)
    assert _values("negative_cosine", first, -first)[0] == pytest.approx(1, abs=1e-6)
    first, second = np.eye(4)[[0, 1, 2, 3]], np.eye(4)[[1, 2, 3, 3]]
    assert _values("negative_cosine", first, second)[0] == pytest.approx(-0.25)


def test_negative_cosine_is_half_the_squared_distance_of_unit_vectors_less_one():
    first, second = _views()
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (first, second)]
    byol = ((unit[0] - unit[1]) ** 2).sum(1).mean()
    assert 2 + 2 * _values("negative_cosine", first, second)[0] == pytest.approx(byol, rel=1e-5)


def test_redundancy_is_zero_for_equal_white_views():
    white = math.sqrt(1.1) * np.concatenate([np.eye(4), -np.eye(4)]) * 2  # variance 1.1, 8 rows
    np.testing.assert_allclose(_values("barlow_twins", white, white), 0, atol=1e-8)
    np.testing.assert_allclose(_values("vicreg", white, white), 0, atol=1e-12)


def test_redundancy_of_equal_dimensions():
    """Every correlation is 1: 3 * 2 pairs for Barlow Twins, 2 for each of VICReg's two views."""
    column = np.sqrt(7 / 8) * np.array([1.0, -1] * 4)[:, None]  # unbiased variance 1
    views = [np.tile(column, (1, 3))] * 2
    np.testing.assert_allclose(_values("barlow_twins", *views), [0, 6], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(_values("vicreg", *views), [0, 0, 4], rtol=1e-5, atol=1e-6)


def test_redundancy_at_collapse():
    rows = np.tile([[1.0, -2.0, 0.5]], (8, 1))
    np.testing.assert_allclose(_values("barlow_twins", rows, rows), [3, 0], atol=1e-6)
    expected = [4, 2 * (1 - 0.01), 0]  # the root of epsilon = 1e-4 is 0.01
    np.testing.assert_allclose(_values("vicreg", rows, rows + 2), expected, rtol=1e-5)


def test_epsilon_is_added_to_the_variance():
    """Of white rows of variance 2, biased for Barlow Twins and unbiased for VICReg."""
    white = math.sqrt(2) * np.concatenate([np.eye(4), -np.eye(4)]) * 2
    barlow = redundancy.barlow_twins(*[jnp.float32(white)] * 2, epsilon=0.5)
    np.testing.assert_allclose(barlow, [4 * (1 - 2 / 2.5) ** 2, 0], rtol=1e-5, atol=1e-7)
    narrow = jnp.float32(math.sqrt(7 / 8 * 0.2 / 2) * white)  # unbiased variance 0.2
    vicreg = redundancy.vicreg(narrow, narrow, epsilon=0.29)
    np.testing.assert_allclose(vicreg, [0, 2 * (1 - 0.7), 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rows", [np.zeros((8, 3)), np.ones((8, 3))])
@pytest.mark.parametrize("name", [*LOSSES, "whiten"])
def test_values_and_gradients_stay_finite_at_collapse(name, rows):
    def total(first, second):
        if name == "whiten":
            return (whitening.whiten(first, size=4, epsilon=0.01) * (second + 1)).sum()
        return sum(LOSSES[name](first, second))

    value, gradients = value_and_grad(total, rows, rows)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("size", [8, 16, 48])
def test_whitened_slices_have_mean_zero_and_unbiased_covariance_identity(size):
    rng = np.random.default_rng(size)
    mixer = np.eye(5) + 0.3 * rng.normal(size=(5, 5))
    z = rng.normal(size=(48, 5)) @ mixer + 4 * rng.normal(size=5)
    whiten = jax.jit(lambda z: whitening.whiten(z, size=size))
    slices = np.asarray(whiten(jnp.asarray(z, jnp.float32)), np.float64).reshape(-1, size, 5)
    for rows in slices:
        np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(rows.T), np.eye(5), atol=1e-3)


def test_whitening_leaves_other_slices_and_white_rows_alone():
    z = np.sqrt(7 / 2) * np.concatenate([np.eye(4), -np.eye(4)])  # mean 0, unbiased covariance 1
    whiten = jax.jit(lambda z: whitening.whiten(z, size=8))
    slices = jnp.asarray(np.concatenate([z, 5 + 3 * z]), jnp.float32)
    np.testing.assert_allclose(whiten(slices), np.concatenate([z, z]), atol=1e-4)
    shrunk = jax.jit(lambda z: whitening.whiten(z, size=8, epsilon=0.25))
    got = shrunk(jnp.asarray(2 * z, jnp.float32))
    np.testing.assert_allclose(got, 2 * z / math.sqrt(0.75 * 4 + 0.25), rtol=1e-5)


def test_whitening_of_many_slices_ends_and_is_that_of_each():
    """Batched factorisations, several in one program, never ended on the CPU."""

    def whiten(first, second):
        return whitening.whiten(first, size=8) * whitening.whiten(second, size=8)

    views = [jnp.asarray(z, jnp.float32) for z in _views(n=64)]
    gradient = jax.jit(jax.grad(lambda *views: (whiten(*views) ** 2).sum(), argnums=(0, 1)))
    for _ in range(20):
        together = gradient(*views)
    for i in range(0, 64, 8):
        alone = gradient(*(z[i : i + 8] for z in views))
        _assert_equal([z[i : i + 8] for z in together], alone, 1e-3)


def _z(*shape):
    return jnp.zeros(shape, jnp.float32)


@pytest.mark.parametrize(
    "n, size, words", [(12, 8, "12 embeddings .* slices of 8"), (12, 3, "3 dimensions .* not 3")]
)
def test_whitening_refuses_slices_that_do_not_fit(n, size, words):
    with pytest.raises(ValueError, match=words):
        whitening.whiten(_z(n, 3), size=size)


@pytest.mark.parametrize("name", [*LOSSES, "whiten"])
def test_bfloat16_is_accepted_and_computed_in_float32(name):
    halves = [jnp.asarray(z, jnp.bfloat16) for z in _views()]
    got = _jitted(name)(*halves)
    assert all(value.dtype == jnp.float32 for value in got)
    _assert_equal(got, _values(name, *halves), 1e-6)
