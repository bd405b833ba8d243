"""The entropy estimators where the answer is known: Gaussians and uniform spheres.

Many rows in few dimensions must come to the limit; batches of 256 in many dimensions must show the
bias and standard deviation that docs/estimators.md states, and these the theory where there is one.
"""

import functools
import math
import pathlib
import re

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from scipy.special import betaincinv, digamma, gammaln

from iecl_jax.losses import entropy

FACTOR = np.array([[1.0, 0, 0], [0.6, 0.3, 0], [-0.5, 0.4, 2]])
ROWS = 2000


def _gaussian(d, size, rng):
    return rng.normal(size=(*size, d)) / math.sqrt(d)


def _sphere(d, size, rng):
    z = rng.normal(size=(*size, d))
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


LAWS = {"N(0, I/": _gaussian, "S^": _sphere}


def _half_log_det(matrix):
    return 0.5 * np.linalg.slogdet(matrix)[1]


def _log_ball(d):
    return d / 2 * math.log(math.pi) - gammaln(d / 2 + 1)


def _log_area(d):
    """Of the unit sphere in R^d, the entropy of the uniform law on it."""
    return math.log(d) + _log_ball(d)


def _renyi2_on_sphere(d, t):
    """-log E exp(-t |x - y|^2) / d = -log E exp(2 t cos) / d + 2t/d."""
    return (2 * t - math.log(scipy.special.hyp0f1(d / 2, t * t))) / d


def _kozachenko_leonenko_on_sphere(d, n, k):
    """The estimate's expectation at n rows, exactly.

    The share of the sphere within distance r of a point is the incomplete beta function of r^2/4
    at (d-1)/2, twice; at the k-th of n - 1 neighbours it is Beta(k, n - k) distributed.
    """
    share = scipy.stats.beta(k, n - k)

    def weighted(u):
        return share.pdf(u) * 0.5 * math.log(4 * betaincinv((d - 1) / 2, (d - 1) / 2, u))

    mean_log_r = scipy.integrate.quad(weighted, 0, 1, points=[k / n], limit=200)[0]
    return (digamma(n) - digamma(k) + _log_ball(d)) / d + mean_log_r


def _local_density_on_sphere(d, n, k):
    """The same while the neighbourhoods are flat: V_(d-1) r^(d-1) / area is the share within r."""
    digammas = digamma(n) - digamma(k)
    mean_log_r = (_log_area(d) - _log_ball(d - 1) - digammas) / (d - 1)
    return (digammas + _log_ball(d)) / d + mean_log_r


def _limits(law):
    """[(estimator, options, limit in 3 dimensions, tolerance: 4 standard deviations at least)]."""
    if law == "sphere":
        covariance = np.eye(3) / 3
        nearest = [_local_density_on_sphere(3, ROWS, k) for k in (1, 4)]
        kernel = _renyi2_on_sphere(3, 0.8)
        tolerances = [0.003, 0.003, 0.06, 0.04, 0.002]
    else:
        covariance = FACTOR @ FACTOR.T
        nearest = [_half_log_det(2 * math.pi * math.e * covariance) / 3] * 2
        kernel = _half_log_det(np.eye(3) + 4 * 0.8 * covariance) / 3
        tolerances = [0.02, 0.035, 0.06, 0.04, 0.03]
    rate = _half_log_det(np.eye(3) + 3 / 0.5**2 * covariance) / 3
    diagonal = np.mean(0.5 * np.log(2 * math.pi * math.e * np.diag(covariance)))
    limits = [
        (entropy.coding_rate, {"epsilon": 0.5}, rate),
        (entropy.gaussian_diagonal, {}, diagonal),
        (entropy.kozachenko_leonenko, {"neighbors": 1}, nearest[0]),
        (entropy.kozachenko_leonenko, {"neighbors": 4}, nearest[1]),
        (entropy.renyi2, {"kernel_scale": 0.8}, kernel),
    ]
    return [(*limit, tolerance) for limit, tolerance in zip(limits, tolerances)]


@pytest.mark.parametrize("law", ["gaussian", "sphere"])
def test_many_rows_come_to_the_limit(law):
    rng = np.random.default_rng(5)
    z = rng.normal(size=(ROWS, 3)) @ FACTOR.T + [1, -2, 3]
    if law == "sphere":
        z = _sphere(3, (ROWS,), rng)
    for estimate, options, limit, tolerance in _limits(law):
        got = jax.jit(functools.partial(estimate, **options))(np.float32(z))
        assert float(got) == pytest.approx(limit, abs=tolerance), (estimate.__name__, options)


def test_the_references_on_the_sphere_agree_where_they_must():
    """S^2's caps have area pi r^2 exactly; E exp(2 t cos) is a modified Bessel function."""
    for k in (1, 4):
        exact = _kozachenko_leonenko_on_sphere(3, 50, k)
        assert exact == pytest.approx(_local_density_on_sphere(3, 50, k), abs=1e-6)
    assert _log_area(3) == pytest.approx(math.log(4 * math.pi))

    def weighted(u):  # u, the cosine between two points of S^4, has density 3/4 (1 - u^2)
        return (1 - u * u) * 3 / 4 * math.exp(-0.8 * (2 - 2 * u))

    by_quadrature = scipy.integrate.quad(weighted, -1, 1)[0]
    by_bessel = math.gamma(2.5) / 0.8**1.5 * scipy.special.ive(1.5, 1.6)
    assert by_bessel == pytest.approx(by_quadrature)
    assert _renyi2_on_sphere(5, 0.8) == pytest.approx(-math.log(by_quadrature) / 5)


# ---------------------------------------------------------------- bias and standard deviation

BATCH = 256
ESTIMATORS = {
    entropy.coding_rate: {"epsilon": 0.5},
    entropy.gaussian_diagonal: {},
    entropy.kozachenko_leonenko: {"neighbors": 1},
    entropy.renyi2: {"kernel_scale": 2.0},
}
PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "estimators.md").read_text()
STATEMENT = r"\| `{}` \| (N\(0, I/|S\^)(\d+)\)? \| ([+-]?[\d.]+) \| ([\d.]+) \|"


def _stated(estimate):
    """{(law, d): (bias, its last digit's half, standard deviation)} of docs/estimators.md."""
    found = {}
    for law, number, bias, deviation in re.findall(STATEMENT.format(estimate.__name__), PAGE):
        d = int(number) + (law == "S^")
        half_digit = 0.5 * 10.0 ** -len(bias.split(".")[1])
        found[law, d] = float(bias), half_digit, float(deviation)
    assert set(found) == {(law, d) for law in LAWS for d in (128, 512)}
    return found


def _truth(estimate, law, d):
    """What the bias is counted from."""
    if estimate is entropy.coding_rate:
        return 0.5 * math.log(1 + 1 / 0.5**2)
    if estimate is entropy.renyi2:
        return 0.5 * math.log(1 + 8 / d) if law != "S^" else _renyi2_on_sphere(d, 2.0)
    if estimate is entropy.kozachenko_leonenko and law == "S^":
        return _log_area(d) / (d - 1)
    return 0.5 * math.log(2 * math.pi * math.e / d)


@pytest.mark.parametrize("law, d", [(law, d) for law in LAWS for d in (128, 512)])
def test_a_batch_shows_the_bias_and_deviation_that_the_docs_state(law, d):
    draws = 24
    batches = np.float32(LAWS[law](d, (draws, BATCH), np.random.default_rng(d)))

    @jax.jit
    def measure(batch):
        return [estimate(batch, **options) for estimate, options in ESTIMATORS.items()]

    values = np.array([measure(batch) for batch in batches], np.float64)
    for estimate, column in zip(ESTIMATORS, values.T):
        bias, half_digit, deviation = _stated(estimate)[law, d]
        measured = column.mean() - _truth(estimate, law, d)
        tolerance = 4 * deviation / math.sqrt(draws) + half_digit
        assert measured == pytest.approx(bias, abs=tolerance), estimate.__name__
        assert column.std(ddof=1) == pytest.approx(deviation, rel=0.35), estimate.__name__


def _marchenko_pastur(gain, ratio):
    """Limit of logdet(I + gain X'X / n) / d for white X [n, d] with d/n = ratio; Tulino &
    Verdu 2004, the Shannon transform of the Marchenko-Pastur law."""
    upper = math.sqrt(gain * (1 + math.sqrt(ratio)) ** 2 + 1)
    lower = math.sqrt(gain * (1 - math.sqrt(ratio)) ** 2 + 1)
    f = (upper - lower) ** 2
    shannon = ratio * math.log(1 + gain - f / 4) + math.log(1 + gain * ratio - f / 4)
    return (shannon - f / (4 * gain)) / ratio


@pytest.mark.parametrize("d", [128, 512])
@pytest.mark.parametrize("law", LAWS)
def test_the_stated_bias_is_that_of_the_theory(law, d):
    freedom = BATCH - 1  # centring takes one direction
    rate = 0.5 * _marchenko_pastur(4 * freedom / BATCH, d / freedom)
    expected = {
        entropy.coding_rate: (rate - 0.5 * math.log(5), 1e-3),
        entropy.gaussian_diagonal: ((digamma(freedom / 2) - math.log(BATCH / 2)) / 2, 3e-4),
        entropy.renyi2: (0, 2e-5),
    }
    if law == "S^":
        nearest = _kozachenko_leonenko_on_sphere(d, BATCH, 1) - _log_area(d) / (d - 1)
        expected[entropy.kozachenko_leonenko] = nearest, 2e-4
    for estimate, (bias, tolerance) in expected.items():
        stated = _stated(estimate)[law, d][0]
        assert stated == pytest.approx(bias, abs=tolerance), estimate.__name__


def test_a_gaussians_diagonal_entropy_is_low_by_the_stated_formula():
    """Exact for any n, and about 1/n."""
    n = 5
    z = np.random.default_rng(6).normal(size=(n, 40_000))
    expected = 0.5 * math.log(2 * math.pi * math.e) - (math.log(n / 2) - digamma((n - 1) / 2)) / 2
    got = jax.jit(entropy.gaussian_diagonal)(np.float32(z))
    assert float(got) == pytest.approx(expected, abs=0.01)
