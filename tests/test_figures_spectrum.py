"""The spectrum's picture says what its numbers say."""

import matplotlib.colors
import numpy as np
import pytest

from iecl_jax.evals.measures import jacobian
from iecl_jax.evals.measures.jacobian import Spectrum
from iecl_jax.evals.pictures import spectrum, style


def quadrature(probes=6, depth=16, seed=0):
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.normal(0.2, 0.5, (probes, depth)))
    return Spectrum(sigma, rng.dirichlet(np.ones(depth), probes))


def shows(picture, colour):
    wanted = 255 * np.array(matplotlib.colors.to_rgb(colour))
    return (np.abs(picture - wanted).max(-1) < 2).sum()


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_the_bars_are_the_whole_and_none_holds_both_sides_of_one(scale):
    found = quadrature()
    found = found._replace(values=scale * found.values)
    with style.context():
        (axes,) = spectrum.figure(found, "").axes
    bars = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in axes.patches]
    for bar in axes.patches:
        wanted = style.RED if bar.get_x() + bar.get_width() / 2 < 1 else style.BLUE
        assert matplotlib.colors.to_hex(bar.get_facecolor()) == wanted
    np.testing.assert_allclose(sum(height for *_, height in bars), 100)
    left = sum(height for start, width, height in bars if start + width / 2 < 1)
    np.testing.assert_allclose(left, 100 * jacobian.share_below_one(found), atol=1e-9, rtol=1e-9)


def test_the_picture_has_both_sides_and_its_words():
    found = quadrature()
    picture = spectrum.draw(found, "step 7")
    assert picture.dtype == np.uint8
    assert picture.shape == (540, 960, 3)
    assert shows(picture, style.RED) > 1000
    assert shows(picture, style.BLUE) > 1000
    with style.context():
        figure = spectrum.figure(found, "step 7")
    assert "step 7" in figure.get_suptitle()
    value, error = jacobian.log_det(found)
    assert f"{value:.4f} ± {error:.4f} nats" in figure.get_suptitle()
    (legend,) = figure.legends
    assert f"{jacobian.share_below_one(found):.1%} of" in legend.get_texts()[0].get_text()


@pytest.mark.parametrize("sigma", [[0.0, 0.0], [1.0, 1.0], [1e-9, 1e9], [2.0]])
def test_odd_spectra_are_drawn(sigma):
    values = np.array([sigma])
    picture = spectrum.draw(Spectrum(values, np.full_like(values, 1 / len(sigma))), "odd")
    assert shows(picture, style.RED) + shows(picture, style.BLUE) > 500


@pytest.mark.parametrize(
    "sigma, weights, words",
    [
        ([1.0], [0.5, 0.5], "one shape"),
        ([], [], "at least one"),
        ([np.nan], [1.0], "singular values of a Jacobian must be finite"),
        ([1.0], [-1.0], "weights of a Jacobian must be finite and at least 0"),
    ],
)
def test_what_is_no_spectrum_is_refused(sigma, weights, words):
    with pytest.raises(ValueError, match=words):
        spectrum.draw(Spectrum(np.array([sigma]), np.array([weights])), "")
