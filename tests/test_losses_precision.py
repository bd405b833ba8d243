"""No product of a loss takes its precision from the device or from the caller."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from iecl_jax import losses, methods
from iecl_jax.losses import contrastive, entropy, redundancy, whitening
from iecl_jax.methods.nnclr import nearest
from iecl_jax.models.conv import power_iteration
from iecl_jax.train.step import probe_metrics

pytestmark = pytest.mark.quick

ROWS, PLACES = jnp.ones((6, 4)), jnp.arange(6)
info_nce = functools.partial(contrastive.info_nce, positives=PLACES, temperature=0.2)
nt_xent = functools.partial(contrastive.nt_xent, places=PLACES, temperature=0.2)
CASES = {
    "info_nce": lambda z: info_nce(z, z),
    "info_nce of a queue": lambda z: info_nce(z, z, negatives=ROWS),
    "nt_xent": lambda z: nt_xent(jnp.stack([z, z]), jnp.stack([z, z])),
    "barlow_twins": lambda z: redundancy.barlow_twins(z, z),
    "vicreg": lambda z: redundancy.vicreg(z, z),
    "whiten": lambda z: whitening.whiten(z, size=6),
    "coding_rate": lambda z: entropy.coding_rate(z, epsilon=0.5),
    "coding_rate of few rows": lambda z: entropy.coding_rate(z[:3], epsilon=0.5),
    "kozachenko_leonenko": lambda z: entropy.kozachenko_leonenko(z, neighbors=1),
    "renyi2": lambda z: entropy.renyi2(z, kernel_scale=2.0),
    "nearest": lambda z: nearest(z, ROWS),
    "online probe": lambda z: probe_metrics(
        {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, z, jnp.zeros(6, jnp.int32), None
    ),
    "spectral norm": lambda z: power_iteration(z, jnp.ones(4)),
}


def _precisions(jaxpr):
    """Those of all matrix products of a program, the ones inside loops and calls too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for inner in jaxprs_in_params(equation.params):
            yield from _precisions(inner)


@pytest.mark.parametrize("name", CASES)
def test_products_and_their_gradients_are_float32_whoever_calls(name):
    def total(z):
        return sum(leaf.sum() for leaf in jax.tree.leaves(CASES[name](z)))

    with jax.default_matmul_precision("bfloat16"):
        program = jax.make_jaxpr(jax.value_and_grad(total))(ROWS)
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert {*_precisions(program.jaxpr)} == {highest}


FOLDERS = [pathlib.Path(package.__path__[0]) for package in (losses, methods)]
FILES = [file for folder in FOLDERS for file in sorted(folder.rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_losses_and_methods_multiply_by_losses_product_alone(file):
    others = {"matmul", "dot", "dot_general", "einsum", "tensordot", "vdot", "inner"}
    found = {
        node.lineno
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.MatMult) or getattr(node, "attr", None) in others
    }
    assert file.stem == "product" or not found
