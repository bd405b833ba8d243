"""The loss of every method against a float64 loop over the global batch, on one and two devices.

The loops are written from the papers' equations and read their settings from the config; gradients
are compared with central finite differences of the loops. Two devices are a mapped axis.
"""

import functools
import itertools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient

from iecl_jax import methods
from iecl_jax.config import kinds, section
from iecl_jax.configs import plug_and_play
from iecl_jax.methods import nnclr
from iecl_jax.methods.parts import queue

pytestmark = pytest.mark.quick

BATCH, WIDTH, QUEUE = 12, 3, 5  # two devices of 6, so that slices of 4 lie across them


def _mean(values):
    values = list(values)
    return sum(values) / len(values)


def _unit(x):
    length = math.sqrt(sum(v * v for v in x))
    return [v / length for v in x]


def _product(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def _squared_distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def _cross_entropy(own, others, temperature):
    """(-log of the positive's share, whether the positive is the largest)."""
    total = sum(math.exp(cosine / temperature) for cosine in (own, *others))
    return -math.log(math.exp(own / temperature) / total), own > max(others)


def _info_nce(anchors, keys, temperature, negatives=None):
    """(mean loss of anchor i at key i against the other keys or the negatives, share of hits)."""
    groups = (anchors, keys, negatives or ())
    anchors, keys, negatives = ([_unit(row) for row in rows] for rows in groups)
    found = []
    for i, anchor in enumerate(anchors):
        rivals = negatives or [key for j, key in enumerate(keys) if j != i]
        others = [_product(anchor, key) for key in rivals]
        found.append(_cross_entropy(_product(anchor, keys[i]), others, temperature))
    return tuple(_mean(column) for column in zip(*found))


def _moco_v2(settings, z):
    """He et al. 2020, Eq. 1; in the symmetric form both directions are added up."""
    args = settings.temperature, z.get("negatives")
    loss, top1 = _info_nce(z["anchor_projection"], z["query_key"], *args)
    if settings.symmetric:
        loss += _info_nce(z["query_projection"], z["anchor_key"], *args)[0]
    return loss, {"info_nce": loss, "info_nce_top1": top1}


def _moco_v3(settings, z):
    """Chen, Xie & He 2021, Algorithm 1: ctr(q1, k2) + ctr(q2, k1), ctr 2 tau times InfoNCE."""
    tau = settings.temperature
    first, top1 = _info_nce(z["anchor_prediction"], z["query_key"], tau)
    second, _ = _info_nce(z["query_prediction"], z["anchor_key"], tau)
    terms = {"info_nce": first + second, "info_nce_top1": top1}
    return 2 * tau * first + 2 * tau * second, terms


def _nnclr(settings, z):
    """Dwibedi et al. 2021, Algorithm 1: L(nn1, p2) / 2 + L(nn2, p1) / 2."""
    first, top1 = _info_nce(z["anchor_neighbor"], z["query_prediction"], settings.temperature)
    second, _ = _info_nce(z["query_neighbor"], z["anchor_prediction"], settings.temperature)
    loss = _mean([first, second])
    return loss, {"info_nce": loss, "info_nce_top1": top1}


def _simclr(settings, z):
    """Chen et al. 2020, Eq. 1, the mean over all 2N embeddings."""
    everyone = [(i, view) for view in (0, 1) for i in range(BATCH)]
    row = {(i, view): _unit(z[PROJECTIONS[view]][i]) for i, view in everyone}
    found = []
    for i, view in everyone:
        rivals = [other for other in everyone if other not in ((i, view), (i, 1 - view))]
        others = [_product(row[i, view], row[other]) for other in rivals]
        own = _product(row[i, view], row[i, 1 - view])
        found.append(_cross_entropy(own, others, settings.temperature))
    loss, top1 = (_mean(column) for column in zip(*found))
    return loss, {"nt_xent_top1": top1}


def _byol(settings, z):
    """Grill et al. 2020, Eq. 2 and its counterpart with the views exchanged, added up."""
    pairs = [("anchor_prediction", "query_key"), ("query_prediction", "anchor_key")]
    loss = 0.0
    for online, target in pairs:
        rows = zip(z[online], z[target], strict=True)
        loss += _mean(_squared_distance(_unit(p), _unit(k)) for p, k in rows)
    return loss, {}


def _simsiam(settings, z):
    """Chen & He 2021, Eq. 2: D(p1, z2) / 2 + D(p2, z1) / 2."""
    pairs = [("anchor_prediction", "query_projection"), ("query_prediction", "anchor_projection")]
    rows = [pair for online, target in pairs for pair in zip(z[online], z[target], strict=True)]
    return _mean(-_product(_unit(p), _unit(k)) for p, k in rows), {}


def _columns(rows):
    """The dimensions, each minus its mean."""
    return [[x - _mean(column) for x in column] for column in zip(*rows)]


def _barlow_twins(settings, z):
    """Zbontar et al. 2021, Eq. 1 and 2, with batch norm's epsilon, times the released scale."""
    standard = []
    for name in PROJECTIONS:
        centred = _columns(z[name])
        roots = [math.sqrt(_product(column, column) / BATCH + 1e-5) for column in centred]
        standard.append([[x / s for x in column] for column, s in zip(centred, roots)])
    on = off = 0.0
    for i, first in enumerate(standard[0]):
        for j, second in enumerate(standard[1]):
            entry = _product(first, second) / BATCH
            on += (1 - entry) ** 2 if i == j else 0
            off += entry**2 if i != j else 0
    loss = settings.loss_scale * (on + settings.off_diagonal_weight * off)
    return loss, {"on_diagonal": on, "off_diagonal": off}


def _vicreg(settings, z):
    """Bardes et al. 2022, Eq. 6: lambda s + mu [v + v'] + nu [c + c'], s the mean of squares."""
    anchors, queries = (z[name] for name in PROJECTIONS)
    s = _mean(_squared_distance(a, b) / WIDTH for a, b in zip(anchors, queries, strict=True))
    v = c = 0.0
    for rows in (anchors, queries):
        centred = _columns(rows)
        for i, first in enumerate(centred):
            for j, second in enumerate(centred):
                covariance = _product(first, second) / (BATCH - 1)
                if i == j:
                    v += max(0, 1 - math.sqrt(covariance + 1e-4)) / WIDTH
                else:
                    c += covariance**2 / WIDTH
    weights = settings.invariance_weight, settings.variance_weight, settings.covariance_weight
    return _product(weights, (s, v, c)), {"invariance": s, "variance": v, "covariance": c}


def _w_mse(settings, z):
    """Ermolov et al. 2021, Eq. 3 and 4. Whitening rows by the Cholesky factor of their covariance
    is, up to scale, making their dimensions orthonormal one after the other."""
    losses, size = [], settings.whitening_size
    for start in range(0, BATCH, size):
        white = []
        for name in PROJECTIONS:
            basis: list[list[float]] = []
            for column in _columns(z[name][start : start + size]):
                for known in basis:
                    share = _product(column, known)
                    column = [x - share * y for x, y in zip(column, known, strict=True)]
                basis.append(_unit(column))
            white.append([_unit(row) for row in zip(*basis)])
        losses += [_squared_distance(a, b) for a, b in zip(*white, strict=True)]
    return _mean(losses), {}


PROJECTIONS = ("anchor_projection", "query_projection")
PREDICTED = (*PROJECTIONS, "anchor_prediction", "query_prediction")
KEYS = ("query_key", "anchor_key")
NEIGHBORS = ("anchor_neighbor", "query_neighbor")


class Case(NamedTuple):
    """A method with settings other than its recipe's; `outputs` are those of its `forward`."""

    method: str
    reference: Callable[[Any, Any], tuple[float, dict[str, float]]]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = types.MappingProxyType({})
    constant: tuple[str, ...] = ()  # trained, but held constant by the loss


def _moco(**settings):
    views = slice(2 if settings["symmetric"] else 1)
    negatives = ("negatives",) if settings["queue_size"] else ()
    outputs = (*PROJECTIONS[views], *KEYS[views], *negatives)
    return Case("moco_v2", _moco_v2, outputs, settings)


VICREG_WEIGHTS = {"invariance_weight": 3.0, "variance_weight": 5.0, "covariance_weight": 7.0}
CASES = {
    "moco_v2": _moco(symmetric=False, queue_size=0),
    "moco_v2 symmetric": _moco(symmetric=True, queue_size=0, temperature=0.4),
    "moco_v2 queue": _moco(symmetric=False, queue_size=QUEUE, temperature=0.4),
    "moco_v2 symmetric, queue": _moco(symmetric=True, queue_size=QUEUE),
    "moco_v3": Case("moco_v3", _moco_v3, PREDICTED + KEYS),
    "moco_v3 warm": Case("moco_v3", _moco_v3, PREDICTED + KEYS, {"temperature": 0.4}),
    "nnclr": Case("nnclr", _nnclr, PREDICTED + NEIGHBORS),
    "nnclr warm": Case("nnclr", _nnclr, PREDICTED + NEIGHBORS, {"temperature": 0.4}),
    "simclr": Case("simclr", _simclr, PROJECTIONS),
    "simclr warm": Case("simclr", _simclr, PROJECTIONS, {"temperature": 0.4}),
    "byol": Case("byol", _byol, PREDICTED + KEYS),
    "simsiam": Case("simsiam", _simsiam, PREDICTED, constant=PROJECTIONS),
    "barlow_twins": Case("barlow_twins", _barlow_twins, PROJECTIONS),
    "barlow_twins heavy": Case(
        "barlow_twins", _barlow_twins, PROJECTIONS, {"loss_scale": 0.3, "off_diagonal_weight": 0.6}
    ),
    "vicreg": Case("vicreg", _vicreg, PROJECTIONS),
    "vicreg reweighted": Case("vicreg", _vicreg, PROJECTIONS, VICREG_WEIGHTS),
    "w_mse one slice": Case("w_mse", _w_mse, PROJECTIONS, {"whitening_size": BATCH}),
    "w_mse": Case("w_mse", _w_mse, PROJECTIONS, {"whitening_size": 4}),
}
ON_TWO_DEVICES = ["moco_v2", *{case.method: name for name, case in CASES.items()}.values()]


@functools.cache
def _config(name):
    config = plug_and_play.get_config(f"{CASES[name].method},smoke")
    config.method.update(CASES[name].settings)
    return config


def _loss(name, axis_name=None):
    return methods.make(_config(name), total_steps=10, axis_name=axis_name).loss


def _outputs(name):
    """Float64 rows of any length, alike for an image; slices of 4 are far from singular."""
    rng = np.random.default_rng(38)
    images = rng.normal(size=(BATCH, WIDTH)) * [0.4, 1.0, 1.6] + [0.5, 0.0, -1.0]
    found = {}
    for output in (*PREDICTED, *KEYS, *NEIGHBORS):
        found[output] = images + rng.normal(size=images.shape) * [0.5, 0.8, 0.3]
    found["negatives"] = rng.normal(size=(QUEUE, WIDTH))
    return {output: found[output] for output in CASES[name].outputs}


def _reference(name, outputs):
    """(loss, terms) of the loop."""
    rows = {output: values.tolist() for output, values in outputs.items()}
    return CASES[name].reference(_config(name).method, rows)


def _float32(tree):
    return jax.tree.map(jnp.float32, tree)


@pytest.mark.parametrize("name", CASES)
def test_loss_terms_and_gradients_are_those_of_the_loop(name):
    case, outputs = CASES[name], _outputs(name)
    step = jax.jit(jax.value_and_grad(_loss(name), has_aux=True))
    (loss, terms), gradients = step(_float32(outputs))
    expected, expected_terms = _reference(name, outputs)
    assert (loss.dtype, loss.shape) == (jnp.float32, ())
    assert set(terms) == set(expected_terms)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)
    for term, value in expected_terms.items():
        assert (terms[term].dtype, terms[term].shape) == (jnp.float32, ())
        np.testing.assert_allclose(terms[term], value, rtol=1e-4, err_msg=term)
        assert 0 < value < 1 or not term.endswith("_top1")
    for output in set(PREDICTED) & set(outputs):

        def moved(x, output=output):
            return _reference(name, outputs | {output: x})[0]

        numeric = numeric_gradient(moved, outputs[output]) * (output not in case.constant)
        if numeric.any():
            np.testing.assert_allclose(gradients[output], numeric, rtol=1e-3, atol=1e-5)
            assert abs(numeric).max() > 1e-2, output
        else:
            np.testing.assert_array_equal(gradients[output], numeric, err_msg=output)


@pytest.mark.parametrize("name", ON_TWO_DEVICES)
def test_two_devices_are_the_loop_over_all_images(name):
    """Mean over devices of loss, terms and the gradient of a matrix that stands for the network."""
    case, outputs = CASES[name], _outputs(name)
    mixer = np.eye(WIDTH) + 0.3 * np.random.default_rng(1).normal(size=(WIDTH, WIDTH))

    def mixed(mixer, outputs, names):
        return {o: x @ mixer if o in names else x for o, x in outputs.items()}

    def loss(mixer, outputs):
        return _loss(name, "devices")(mixed(mixer, outputs, PREDICTED))

    split = {o: x if o == "negatives" else x.reshape(2, -1, WIDTH) for o, x in outputs.items()}
    axes = {output: None if output == "negatives" else 0 for output in outputs}
    step = jax.value_and_grad(loss, has_aux=True)
    on_two = jax.jit(jax.vmap(step, in_axes=(None, axes), axis_name="devices"))
    (losses, terms), gradients = on_two(*_float32((mixer, split)))

    constant = mixed(mixer, outputs, case.constant)
    moving = set(PREDICTED) - set(case.constant)
    expected, expected_terms = _reference(name, mixed(mixer, constant, moving))
    numeric = numeric_gradient(lambda m: _reference(name, mixed(m, constant, moving))[0], mixer)
    assert losses.shape == (2,)
    np.testing.assert_allclose(losses.mean(), expected, rtol=1e-4)
    for term, value in expected_terms.items():
        np.testing.assert_allclose(terms[term].mean(), value, rtol=1e-4, err_msg=term)
    np.testing.assert_allclose(gradients.mean(0), numeric, rtol=1e-3, atol=1e-5)
    assert abs(numeric).max() > 1e-2


def _loss_at(name, key, value):
    """The loss of a case with another value of a setting."""
    config = _config(name)
    config.update_from_flattened_dict({f"method.{key}": value})
    method = methods.make(config, total_steps=10)
    return method.loss(jax.tree.map(_float32, _outputs(name)))[0]


def test_every_method_and_every_setting_of_a_loss_has_a_case():
    assert {case.method for case in CASES.values()} == set(kinds.names("method"))
    for method in kinds.names("method"):
        cases = [name for name, case in CASES.items() if case.method == method]
        for key, declared in section.keys(kinds.settings("method", method)).items():
            given = section.leaves(_config(cases[0]).method)[key]
            if isinstance(declared.default, float) and not np.array_equal(
                _loss_at(cases[0], key, given), _loss_at(cases[0], key, 0.7 * given)
            ):
                values = {section.leaves(_config(name).method)[key] for name in cases}
                assert len(values) > 1, (method, key)
        losses = sorted(_reference(name, _outputs(name))[0] for name in cases)
        assert all(high - low > 0.02 for low, high in itertools.pairwise(losses)), losses


def test_nearest_is_the_row_of_the_largest_cosine():
    rng = np.random.default_rng(0)
    rows = [_unit(row) for row in rng.normal(size=(30, WIDTH))]
    support = jnp.asarray(rows, jnp.float32)
    z = rng.normal(size=(BATCH, WIDTH)) * rng.uniform(0.1, 10, (BATCH, 1))
    expected = []
    for row in z.tolist():
        cosines = [_product(_unit(row), other) for other in rows]
        expected.append(rows[cosines.index(max(cosines))])
    assert len(np.unique(expected, axis=0)) > BATCH // 2
    weights = _float32(rng.normal(size=z.shape))

    def weighted(z):
        found = nnclr.nearest(z, support)
        return (weights * found).sum(), found

    gradient, found = jax.jit(jax.grad(weighted, has_aux=True))(_float32(z))
    np.testing.assert_array_equal(found, np.asarray(expected, np.float32))
    np.testing.assert_array_equal(gradient, np.zeros_like(z))


@pytest.mark.parametrize("devices", [1, 2])
def test_the_queue_holds_the_newest_unit_rows_in_global_order(devices):
    """Seven batches of 4 in a queue of 12; the rows not overwritten yet are those of `init`."""
    rng = np.random.default_rng(2)
    batches = rng.normal(size=(7, 4, WIDTH)) * rng.uniform(0.1, 10, (7, 4, 1))
    state = queue.init(jax.random.key(0), 12, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(state["keys"], axis=1), 1, rtol=1e-5)
    assert len(np.unique(state["keys"], axis=0)) == 12
    axis_name = "devices" if devices > 1 else None

    def enter(embeddings, state):
        entered = queue.enqueue(state, embeddings, axis_name)
        return entered["keys"].sum(), entered

    step = jax.grad(enter, has_aux=True)
    step = jax.jit(jax.vmap(step, in_axes=(0, None), axis_name=axis_name, axis_size=devices))
    expected = np.asarray(state["keys"]).tolist()
    for i, batch in enumerate(batches):
        gradient, states = step(_float32(batch.reshape(devices, -1, WIDTH)), state)
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))
        for j, row in enumerate(batch.tolist()):
            expected[(4 * i + j) % 12] = _unit(row)
        for replica in range(devices):
            state = jax.tree.map(lambda leaf, replica=replica: leaf[replica], states)
            np.testing.assert_allclose(state["keys"], expected, rtol=1e-5, atol=1e-6)
            assert state["next"] == 4 * (i + 1) % 12
            assert state["next"].dtype == jnp.int32
