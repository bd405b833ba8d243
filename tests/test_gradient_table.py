"""Who gets a gradient from which term (row 7): the table of docs/paper.md, cell by cell."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_resnet
from tiny_objective import get_config, get_objective

from iecl_jax import methods
from iecl_jax.configs import imagenet_r50
from iecl_jax.methods.parts import objective

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "paper.md"
SECTION = "## Who gets a gradient from which term"
BOOLEANS = {"True": True, "False": False}
COLUMNS = ["`q_anchor`", "`q_query'`", "Q", "SAIB", "K"]


def _table():
    """[(term, {key: value}, [bool for each of COLUMNS])] of the page's section."""
    section = PAGE.read_text().split(SECTION + "\n")[1].split("\n## ")[0]
    lines = [line.strip().strip("|") for line in section.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert header == ["Term", "Switch", *COLUMNS]
    table = []
    for term, switch, *cells in rows:
        assert set(cells) <= {"yes", "\N{EN DASH}"}
        written = dict(re.findall(r"`([\w.]+)=(\w+)`", switch))
        settings = {key: BOOLEANS.get(value, value) for key, value in written.items()}
        table.append((term.strip("`"), settings, [cell == "yes" for cell in cells]))
    return table


TABLE = _table()


@pytest.fixture(scope="module")
def network():
    """(outputs, params, pullback): the real method's outputs and their compiled transposed map.

    The symmetric method computes all that the objective can ask for.
    """
    config = get_config(**{"method.symmetric": True})
    config.encoder.update(tiny_resnet.ENCODER | {"num_stages": 2, "spectral_norm": False})
    method = methods.make(config, total_steps=10)
    drawn = np.random.default_rng(2).normal(size=(2, 4, 8, 8, 3))
    views = list(jnp.asarray(drawn, jnp.float32))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        value = rng.uniform(0.5, 2, leaf.shape) if positive else rng.normal(size=leaf.shape)
        return np.float32(value)

    shapes = jax.eval_shape(method.init, jax.random.key(0), views)
    params, state = jax.tree_util.tree_map_with_path(draw, shapes)

    @jax.jit
    def run(params, cotangents):
        outputs, pull = jax.vjp(lambda p: method.forward(p, state, views)[0], params)
        return outputs, pull(cotangents)[0]

    shapes = jax.eval_shape(lambda p: method.forward(p, state, views)[0], params)
    zeros = {name: np.zeros(s.shape, np.float32) for name, s in shapes.items()}
    outputs, _ = run(params, zeros)
    return outputs, params, lambda cotangents: run(params, zeros | cotangents)[1]


def _size(tree):
    """Sum of magnitudes; exactly 0 means that nothing arrives."""
    return sum(float(abs(np.asarray(leaf)).sum()) for leaf in jax.tree.leaves(tree))


def _reached(network, term, settings):
    """[bool for each of COLUMNS]: whether one unweighted term's gradient arrives there."""
    outputs, params, pull = network
    config = get_config(**settings)
    if not config.method.symmetric:
        outputs = {k: v for k, v in outputs.items() if k != "anchor_key"}
    fn = get_objective(config)

    @jax.jit
    def gradients(outputs, params):
        return jax.grad(lambda *args: fn(*args)[1][term], (0, 1))(outputs, params)

    to_outputs, directly = gradients(outputs, params)
    to_params = jax.tree.map(np.add, directly, pull(to_outputs))
    sizes = [
        _size(to_outputs["anchor_projection"]),
        _size(to_outputs["query_projection"]),
        _size(to_params["online"]),
        _size(to_params["saib"]),
        _size(to_params.get("momentum", {})),  # K: no part of what training differentiates
    ]
    assert np.isfinite(sizes).all()
    return [size > 0 for size in sizes]


EVERY = {
    "kl": [{"objective.kl.form": form} for form in objective.KL_FORMS],
    "entropy": [
        {"objective.entropy.estimator": name}
        for name in objective.estimators(get_config().objective.entropy)
    ],
}


@pytest.mark.parametrize(
    "term, settings, expected",
    [
        pytest.param(term, settings | every, cells, id=f"{term}-{settings | every}")
        for term, settings, cells in TABLE
        for every in EVERY.get(term, [{}])
    ],
)
def test_every_cell_of_the_table_holds(network, term, settings, expected):
    assert dict(zip(COLUMNS, _reached(network, term, settings))) == dict(zip(COLUMNS, expected))


def test_the_table_has_a_row_for_every_switch_and_names_the_defaults():
    rows = [(term, settings) for term, settings, _ in TABLE]
    assert rows == [
        *(("info_nce", {"method.symmetric": value}) for value in (False, True)),
        *(("kl", {"objective.kl.stop_gradient": side}) for side in objective.STOP_GRADIENT),
        ("entropy", {}),
        ("saib_decay", {}),
    ]
    defaults = re.findall(r"`([\w.]+)=(\w+)` \(default\)", PAGE.read_text())
    config = imagenet_r50.get_config()
    assert defaults == [
        ("method.symmetric", str(config.method.symmetric)),
        ("objective.kl.stop_gradient", config.objective.kl.stop_gradient),
    ]


def test_nothing_reaches_the_parameters_through_the_keys(network):
    outputs, _, pull = network
    ones = {name: np.ones_like(outputs[name]) for name in ("query_key", "anchor_key")}
    assert _size(pull(ones)) == 0


def test_algorithm_1_trains_saib_by_entropy_and_decay_alone(network):
    outputs, params, pull = network
    outputs = {k: v for k, v in outputs.items() if k != "anchor_key"}
    fn = get_objective(get_config())
    (to_outputs, to_params), entropy_alone = jax.jit(
        lambda outputs, params: (
            jax.grad(lambda *args: fn(*args)[0], (0, 1))(outputs, params),
            jax.grad(lambda outputs: -0.4 * fn(outputs, params)[1]["entropy"])(outputs),
        )
    )(outputs, params)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6),
        pull(to_outputs)["saib"],
        pull(entropy_alone)["saib"],
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(to_params["saib"]):
        name = path[-1].key
        expected = 0.02 * params["saib"][path[0].key][name] if name.startswith("conv") else 0 * leaf
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)
    assert _size(to_params["online"]) == 0
