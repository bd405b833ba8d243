"""The losses of Matrix-SSL against the authors' program and a literal float64 Taylor series."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient, value_and_grad

from iecl_jax.losses import matrix

pytestmark = pytest.mark.quick

# Made by the authors' program (yifanzhang-pro/Matrix-SSL b8164df) with torch 2.13 on the CPU.
REFERENCE = np.load(pathlib.Path(__file__).parent / "matrix_ssl.npz")


def _unit_centred(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows - rows.mean(0)


def _log(q, order):
    """The series at the identity, term by term."""
    d = len(q)
    total, power = np.zeros((d, d)), np.eye(d)
    for k in range(1, order + 1):
        power = power @ (q - np.eye(d))
        total += (-1) ** (k + 1) * power / k
    return total


def _covariance(first, second):
    """The mean over images of the outer products, image by image."""
    pairs = zip(_unit_centred(first), _unit_centred(second), strict=True)
    return sum(np.outer(p, z) for p, z in pairs) / len(first)


def _uniformity(first, second, *, identity=1.0, order=4, symmetric=False):
    c = _covariance(first, second)
    c = (c + c.T) / 2 if symmetric else c
    return -np.trace(_log(c + identity * np.eye(len(c)), order))


def _alignment(first, second, *, identity=1.0, order=4):
    eye = identity * np.eye(first.shape[1])
    c = _log(_covariance(second, second) + eye, order)
    return -np.trace((_covariance(first, first) + eye) @ c)


LOSSES = {
    "uniformity": (matrix.uniformity, _uniformity),
    "symmetric uniformity": (
        functools.partial(matrix.uniformity, symmetric=True),
        functools.partial(_uniformity, symmetric=True),
    ),
    "alignment": (matrix.alignment, _alignment),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("n, d", [(9, 4), (4, 9), (6, 8)])  # 2n rows of the symmetric form: 12
@pytest.mark.parametrize("identity, order", [(1.0, 4), (0.7, 5), (1.0, 1)])
def test_value_and_gradient(name, n, d, identity, order):
    rng = np.random.default_rng(n + d)
    images = rng.normal(size=(n, d)) + 0.5
    arrays = [images + rng.normal(size=(n, d)) * 0.4 for _ in range(2)]
    loss, reference = LOSSES[name]
    value, gradients = value_and_grad(loss, *arrays, identity=identity, order=order)
    expected = reference(*arrays, identity=identity, order=order)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    for i, gradient in enumerate(gradients):

        def moved(x, i=i):
            return reference(*arrays[:i], x, *arrays[i + 1 :], identity=identity, order=order)

        numeric = numeric_gradient(moved, arrays[i])
        np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-5)
        assert order == 1 or abs(numeric).max() > 1e-3


def test_values_and_gradients_of_the_authors_program():
    teacher, student = (jnp.float32(REFERENCE[f"matrix_{name}"]) for name in ("teacher", "student"))

    @functools.partial(jax.jit, static_argnums=0)
    def both(loss, student):
        return (loss(teacher[1], student[0]) + loss(teacher[0], student[1])) / 2

    values = [both(loss, student) for loss in (matrix.uniformity, matrix.alignment)]
    gradients = [jax.grad(both, 1)(loss, student) for loss in (matrix.uniformity, matrix.alignment)]
    expected = [REFERENCE["matrix_uniformity"], REFERENCE["matrix_alignment"]]
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(sum(values), REFERENCE["matrix_loss"], rtol=1e-6)
    np.testing.assert_allclose(
        sum(gradients), REFERENCE["matrix_grad_student"], rtol=1e-5, atol=1e-8
    )


def test_at_collapse_both_are_0_and_their_gradients_finite():
    ones = np.ones((5, 3))
    for loss, _ in LOSSES.values():
        value, gradients = value_and_grad(loss, ones, ones)
        np.testing.assert_allclose(value, 0, atol=1e-6)
        assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_wide_rows_take_products_of_the_rows_alone():
    """8 rows of 64 dimensions: no product of the program has 64 x 64 results."""
    rows = jnp.ones((8, 64))
    for loss, _ in LOSSES.values():
        program = str(jax.make_jaxpr(jax.grad(loss))(rows, rows))
        assert "f32[64,64]" not in program
