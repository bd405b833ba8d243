"""The methods' losses against float64 loops written from their equations, on 1 and 2 devices.

Gradients are compared with central finite differences of the loops.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_reference import numeric_gradient

from iecl_jax.losses import contrastive, redundancy, similarity, whitening
from iecl_jax.models import collectives


def _cosine(a, b):
    products = [x * y for x, y in zip(a, b)]
    return sum(products) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _nt_xent(first, second, temperature):
    embeddings = [*first, *second]
    losses, hits = [], []
    for i, anchor in enumerate(embeddings):
        positive = (i + len(first)) % len(embeddings)
        total, best = 0.0, -math.inf
        for k, other in enumerate(embeddings):
            if k != i:
                total += math.exp(_cosine(anchor, other) / temperature)
            if k not in (i, positive):
                best = max(best, _cosine(anchor, other))
        own = _cosine(anchor, embeddings[positive])
        losses.append(-math.log(math.exp(own / temperature) / total))
        hits.append(own > best)
    return sum(losses) / len(losses), sum(hits) / len(hits)


def _negative_cosine(first, second):
    return (-sum(_cosine(p, z) for p, z in zip(first, second)) / len(first),)


def _covariance(z, i, j, divisor):
    means = [sum(row[k] for row in z) / len(z) for k in (i, j)]
    return sum((row[i] - means[0]) * (row[j] - means[1]) for row in z) / divisor


def _barlow_twins(first, second, epsilon):
    n, d = first.shape
    standard = np.zeros((2, n, d))
    for view, z in enumerate((first, second)):
        for j in range(d):
            mean = sum(z[:, j]) / n
            variance = sum((x - mean) ** 2 for x in z[:, j]) / n
            for b in range(n):
                standard[view, b, j] = (z[b, j] - mean) / math.sqrt(variance + epsilon)
    on = off = 0.0
    for i in range(d):
        for j in range(d):
            entry = sum(standard[0, b, i] * standard[1, b, j] for b in range(n)) / n
            if i == j:
                on += (1 - entry) ** 2
            else:
                off += entry**2
    return on, off


def _vicreg(first, second, epsilon):
    n, d = first.shape
    invariance = 0.0
    for b in range(n):
        for j in range(d):
            invariance += (first[b, j] - second[b, j]) ** 2 / (n * d)
    variance = covariance = 0.0
    for z in (first, second):
        for i in range(d):
            deviation = math.sqrt(_covariance(z, i, i, n - 1) + epsilon)
            variance += max(0.0, 1 - deviation) / d
            for j in range(d):
                if i != j:
                    covariance += _covariance(z, i, j, n - 1) ** 2 / d
    return invariance, variance, covariance


def _whiten(z, size, epsilon):
    n, d = z.shape
    out = np.zeros((n, d))
    for start in range(0, n, size):
        rows = z[start : start + size]
        factor = np.zeros((d, d))
        for i in range(d):
            for j in range(i + 1):
                entry = (1 - epsilon) * _covariance(rows, i, j, size - 1) + epsilon * (i == j)
                entry -= sum(factor[i, k] * factor[j, k] for k in range(j))
                factor[i, j] = math.sqrt(entry) if i == j else entry / factor[j, j]
        for b in range(size):
            for i in range(d):  # solves factor @ out = row by forward substitution
                centred = rows[b, i] - sum(rows[:, i]) / size
                known = sum(factor[i, k] * out[start + b, k] for k in range(i))
                out[start + b, i] = (centred - known) / factor[i, i]
    return out


class Case(NamedTuple):
    """`loss` (this device's views, axis name) and `reference` (all views) return tuples."""

    loss: Callable
    reference: Callable
    differentiable: int  # how many of the tuple, from the first
    same_on_every_device: bool = True


def _gathered(fn):
    def loss(first, second, axis_name):
        return fn(collectives.gather(first, axis_name), collectives.gather(second, axis_name))

    return loss


def _nt_xent_case(temperature):
    def loss(first, second, axis_name):
        all_views = [collectives.gather(view, axis_name) for view in (first, second)]
        return contrastive.nt_xent(
            jnp.stack([first, second]),
            jnp.stack(all_views),
            collectives.places(len(first), axis_name),
            temperature=temperature,
        )

    return Case(loss, lambda a, b: _nt_xent(a, b, temperature), 1, same_on_every_device=False)


def _whitening_case(size, epsilon):
    """Every entry of the whitened views counts, by a weight of its own."""

    def weighted(whiten, first, second):
        weights = np.random.default_rng(9).normal(size=(2, BATCH, WIDTH))
        return tuple(
            (w.astype(z.dtype) * whiten(z, size=size, epsilon=epsilon)).sum()
            for w, z in zip(weights, (first, second))
        )

    return Case(
        _gathered(lambda a, b: weighted(whitening.whiten, a, b)),
        lambda a, b: weighted(_whiten, a, b),
        2,
    )


BATCH, WIDTH = 10, 3
CASES = {
    "nt_xent, temperature 0.1": _nt_xent_case(0.1),
    "nt_xent, temperature 0.5": _nt_xent_case(0.5),
    "negative_cosine": Case(
        lambda p, z, _: (similarity.negative_cosine(p, z),),
        _negative_cosine,
        1,
        same_on_every_device=False,
    ),
    "barlow_twins": Case(
        _gathered(redundancy.barlow_twins), lambda a, b: _barlow_twins(a, b, 1e-5), 2
    ),
    "barlow_twins, epsilon 0.3": Case(
        _gathered(lambda a, b: redundancy.barlow_twins(a, b, epsilon=0.3)),
        lambda a, b: _barlow_twins(a, b, 0.3),
        2,
    ),
    "vicreg": Case(_gathered(redundancy.vicreg), lambda a, b: _vicreg(a, b, 1e-4), 3),
    "vicreg, epsilon 0.3": Case(
        _gathered(lambda a, b: redundancy.vicreg(a, b, epsilon=0.3)),
        lambda a, b: _vicreg(a, b, 0.3),
        3,
    ),
    "whiten, two slices": _whitening_case(5, 0.0),
    "whiten, one slice, epsilon 0.2": _whitening_case(10, 0.2),
}


def _views():
    """[10, 3] and [10, 3], alike in part, with deviations on both sides of VICReg's hinge at 1."""
    rng = np.random.default_rng(5)
    first = rng.normal(size=(BATCH, WIDTH)) * [0.4, 1.0, 2.0] + [3.0, 0.0, -1.0]
    second = first + rng.normal(size=(BATCH, WIDTH)) * [0.5, 0.9, 0.2]
    deviations = np.stack([first, second]).std(1, ddof=1)
    assert deviations.min() < 0.8
    assert deviations.max() > 1.2
    return first, second


def _float32(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name):
    case, views = CASES[name], _views()
    loss = jax.jit(lambda a, b: case.loss(a, b, None))
    for got, expected in zip(loss(*_float32(*views)), case.reference(*views), strict=True):
        assert got.dtype == jnp.float32
        assert got.shape == ()
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)

    def of_term(*views):
        return case.loss(*views, None)[: case.differentiable]

    gradients = jax.jit(jax.jacrev(of_term, argnums=(0, 1)))(*_float32(*views))
    for term in range(case.differentiable):
        sizes = []
        for view in (0, 1):

            def moved(x, view=view, term=term):
                return case.reference(*(x if i == view else views[i] for i in (0, 1)))[term]

            numeric = numeric_gradient(moved, views[view])
            np.testing.assert_allclose(gradients[term][view], numeric, rtol=1e-3, atol=1e-4)
            sizes.append(abs(numeric).max())
        assert max(sizes) > 1e-2


@pytest.mark.parametrize(
    "name",
    [
        "nt_xent, temperature 0.5",
        "negative_cosine",
        "barlow_twins",
        "vicreg",
        "whiten, one slice, epsilon 0.2",
    ],
)
def test_two_devices_are_one(name):
    """Mean over devices of terms and parameter gradients: those of the loop over all images."""
    case, views = CASES[name], _views()
    rng = np.random.default_rng(1)
    mixer = np.eye(WIDTH) + 0.5 * rng.normal(size=(WIDTH, WIDTH))  # stands for the network
    weights = rng.uniform(0.5, 1.5, size=case.differentiable)

    def step(axis_name):
        def weighted(mixer, first, second):
            terms = case.loss(first @ mixer, second @ mixer, axis_name)
            return sum(float(w) * term for w, term in zip(weights, terms)), terms

        return jax.value_and_grad(weighted, has_aux=True)

    (_, terms), gradient = jax.jit(step(None))(*_float32(mixer, *views))
    on_two = jax.pmap(step("devices"), "devices", in_axes=(None, 0, 0), devices=jax.devices()[:2])
    split = [view.reshape(2, BATCH // 2, WIDTH) for view in _float32(*views)]
    (_, split_terms), gradients = jax.device_get(on_two(jnp.float32(mixer), *split))

    def reference(mixer):
        values = case.reference(*(view @ mixer for view in views))
        return sum(w * v for w, v in zip(weights, values))

    numeric = numeric_gradient(reference, mixer)
    np.testing.assert_allclose(gradients.mean(0), gradient, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(gradients.mean(0), numeric, rtol=2e-3, atol=2e-4)
    for value, values in zip(terms, split_terms):
        np.testing.assert_allclose(values.mean(0), value, rtol=1e-4, atol=1e-5)
        if case.same_on_every_device:
            np.testing.assert_allclose(values[0], values[1], rtol=1e-6)


def test_nt_xent_top1_counts_some_anchors_and_not_all():
    first, second = _views()
    assert 0 < _nt_xent(first, second, 0.5)[1] < 1


def test_whitened_views_are_those_of_the_loop():
    z = _views()[0]
    got = jax.jit(lambda z: whitening.whiten(z, size=5, epsilon=0.1))(*_float32(z))
    np.testing.assert_allclose(got, _whiten(z, 5, 0.1), rtol=1e-4, atol=1e-5)
    assert got.dtype == jnp.float32
