"""The charts of the report: positions, scales, gaps, and what long curves keep."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from iecl_jax.run.events import Curve
from iecl_jax.tools.figures import chart

pytestmark = pytest.mark.quick


def chart_of(values, steps=None, **options):
    values = np.asarray(values, np.float64)
    curve = Curve(np.arange(len(values)) if steps is None else np.asarray(steps), values)
    error = options.pop("error", None)
    drawn = chart.figure("t", [chart.Line("line", curve, error)], unit="u", **options)
    return ET.fromstring(drawn.replace("&minus;", "-").replace("&#8239;", " "))


def path_of(tree):
    """The points of the only line, [n, 2], and the number of its pieces."""
    (svg,) = [svg for svg in tree.iter("svg") if svg.get("class") == "chart"]
    (line,) = [path for path in svg.iter("path") if path.get("class") == "c0"]
    points = re.findall(r"[ML](\S+?) (\S+?)(?=[ML]|$)", line.get("d"))
    return np.array(points, np.float64), line.get("d").count("M")


def test_a_chart_is_linear_between_its_ticks():
    tree = chart_of([3.0, 4.0, 6.0], steps=[0, 50, 100])
    points, _ = path_of(tree)
    ticks = {
        float(text.text): float(text.get("y")) - 4
        for text in tree.iter("text")
        if text.get("text-anchor") == "end"
    }
    assert len(ticks) >= 3
    slope, offset = np.polyfit(list(ticks), list(ticks.values()), 1)
    np.testing.assert_allclose(points[:, 1], slope * np.array([3, 4, 6]) + offset, atol=0.2)
    np.testing.assert_allclose(np.diff(points[:, 0])[0], np.diff(points[:, 0])[1], atol=0.2)


def test_a_logarithmic_chart_has_equal_ratios_at_equal_distances():
    points, _ = path_of(chart_of([0.01, 1.0, 100.0], log=True))
    np.testing.assert_allclose(*np.diff(points[:, 1]), atol=0.2)
    linear, _ = path_of(chart_of([0.0, 1.0, 100.0], log=True))  # 0 has no logarithm
    assert abs(np.diff(linear[:, 1])[1]) > 50 * abs(np.diff(linear[:, 1])[0])


def test_values_that_are_not_finite_leave_a_gap():
    points, pieces = path_of(chart_of([1, 2, np.nan, 3, np.inf, 4, 5]))
    assert (len(points), pieces) == (5, 3)
    assert path_of(chart_of([np.nan, np.nan]))[1] == 1
    assert "not finite" in "".join(chart_of([1.0, np.nan]).itertext())


def test_a_long_curve_is_thinned_and_keeps_its_extremes():
    values = np.sin(np.arange(50_000) / 3000)
    values[31_234] = 9.0
    values[100:400] = np.nan
    points, _ = path_of(chart_of(values))
    assert 300 < len(points) <= 800
    assert (np.diff(points[:, 0]) >= 0).all()
    short, _ = path_of(chart_of([-1.0, 9.0]))
    np.testing.assert_allclose(points[:, 1].min(), short[:, 1].min(), atol=0.2)


@pytest.mark.parametrize(
    "values", [[0.0], [5.0, 5.0], [1e-9, 2e-9], [1e7, 3e7], [-3.0, -2.0], [1e300, -1e300]]
)
@pytest.mark.parametrize("log", [False, True])
def test_odd_ranges_stay_within_the_chart(values, log):
    tree = chart_of(values, log=log, reference=0.0)
    points, _ = path_of(tree)
    assert ((points >= 0) & (points <= [400, 230])).all()


def test_the_band_is_the_standard_error():
    tree = chart_of([1.0, 2.0], error=np.array([0.5, 0.25]), reference=0.0)
    (band,) = [path for path in tree.iter("path") if "band" in path.get("class")]
    corners = np.array(re.findall(r"[ML](\S+?) (\S+?)(?=[LZ])", band.get("d")), np.float64)[:, 1]
    points, _ = path_of(tree)
    unit = points[0, 1] - points[1, 1]  # pixels from 1 to 2
    wanted = points[[0, 1, 1, 0], 1] + unit * np.array([-0.5, -0.25, 0.25, 0.5])
    np.testing.assert_allclose(corners, wanted, atol=0.3)
    tree = chart_of([1.0, 2.0], error=np.array([5.0, 9.0]))
    (band,) = [path for path in tree.iter("path") if "band" in path.get("class")]
    corners = np.array(re.findall(r"[ML](\S+?) (\S+?)(?=[LZ])", band.get("d")), np.float64)[:, 1]
    assert 10 < corners.min() < corners.max() < 190  # the frame


@pytest.mark.parametrize(
    "value, text",
    [(0.0, "0"), (94.444, "94.44"), (0.00113681, "0.001137"), (12345.6, "12,346"), (-2.5, "-2.5")],
)
def test_numbers_have_four_digits(value, text):
    assert chart.number_text(value) == text
