"""The heat map and the bars show what was measured, and only that."""

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.container import BarContainer

from iecl_jax.evals.pictures import style
from iecl_jax.tools.figures import bars, heat_map
from iecl_jax.tools.tables import pictures

pytestmark = pytest.mark.quick

NAN = float("nan")


def heat(values, averages=None, **changes):
    values = np.array(values, np.float64)
    names = {"rows": list("abc")[: len(values)], "columns": list("xyz")[: values.shape[1]]}
    settings = names | {"titles": ("query", "anchor"), "title": "T", "unit": "%"} | changes
    averages = None if averages is None else np.array(averages, np.float64)
    return heat_map.draw(values, averages, **settings)


def texts(axes):
    """Number -> where it stands, (column, row)."""
    return {text.get_text(): tuple(text.get_position()) for text in axes.texts}


def test_every_number_stands_in_its_cell_and_the_first_row_is_on_top():
    axes, bar = heat([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [2.0, NAN]).axes
    where = texts(axes)
    assert where["1.0"] == (0.5, 0.5)
    assert where["3.0"] == (2.5, 0.5)
    assert where["4.0"] == (0.5, 1.5)
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y", "z", "average"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert (axes.get_ylabel(), axes.get_xlabel(), bar.get_ylabel()) == ("query", "anchor", "%")


def test_what_was_not_measured_is_hatched_and_without_a_number():
    axes = heat([[1.0, NAN], [3.0, 4.0]], [NAN, 3.5]).axes[0]
    hatched = [patch.get_xy() for patch in axes.patches if patch.get_hatch()]
    assert hatched == [(1.0, 0), (2.0 + heat_map._GAP, 0)]
    assert not any(patch.get_fill() for patch in axes.patches if patch.get_hatch())
    assert sorted(texts(axes)) == ["1.0", "3.0", "3.5", "4.0"]
    assert not any("nan" in text for text in texts(axes))


def test_a_higher_accuracy_is_a_brighter_cell():
    axes = heat([[10.0, 30.0, 20.0]]).axes[0]
    order = [np.dot(patch.get_facecolor()[:3], (0.2, 0.7, 0.1)) for patch in axes.patches]
    assert order[0] < order[2] < order[1]
    inks = [text.get_color() for text in axes.texts]
    assert (inks[0], inks[1]) == ("white", style.INK)


@pytest.mark.parametrize("values", [[[NAN, NAN]], [[5.0, 5.0]], [[0.0]]])
def test_odd_matrices_are_drawn(values):
    picture = style.picture(heat(values))
    assert picture.dtype == np.uint8
    assert picture.std() > 1


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"values \[1, 2\] must be \[1, 1\]"):
        heat([[1.0, 2.0]], columns=["x"])
    with pytest.raises(ValueError, match="averages one for each row"):
        heat([[1.0, 2.0]], [1.0, 2.0])


def heights(axes):
    """By container: (its label, the heights or widths of its bars)."""
    found = [c for c in axes.containers if isinstance(c, BarContainer)]
    return {c.get_label(): [float(value) for value in c.datavalues] for c in found}


def test_bars_of_times_have_their_numbers_and_ranges():
    times = np.array([[20.0, 18.0, 25.0], [NAN, NAN, NAN], [10.0, 9.0, 11.0]])
    figure = bars.draw_times(times, labels=["A", "B", "C"], title="T", unit="seconds")
    (axes,) = figure.axes
    (values,) = heights(axes).values()
    np.testing.assert_array_equal(values, [20.0, NAN, 10.0])
    assert [text.get_text() for text in axes.texts] == ["20", "10"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    (container,) = [c for c in axes.containers if isinstance(c, BarContainer)]
    _, _, (lines,) = container.errorbar.lines
    ends = [segment[:, 0].tolist() for segment in lines.get_segments() if len(segment)]
    assert ends == [[18.0, 25.0], [9.0, 11.0]]
    assert style.picture(figure).std() > 1


def test_pairs_of_bars_carry_the_overhead_where_both_were_measured():
    without = np.array([[10.0, 9.0, 11.0], [20.0, 19.0, 21.0]])
    with_saib = np.array([[12.0, 11.0, 14.0], [NAN, NAN, NAN]])
    figure = bars.draw_pairs(
        without, with_saib, labels=["A", "B"], notes=["+20.0 %", "+0.0 %"], title="T", unit="ms"
    )
    (axes,) = figure.axes
    shown = heights(axes)
    assert shown["without SAIB"] == [10.0, 20.0]
    np.testing.assert_array_equal(shown["with SAIB"], [12.0, NAN])
    assert [text.get_text() for text in axes.texts] == ["+20.0 %"]
    assert axes.texts[0].xy == (0, 14.0)
    assert axes.get_ylim()[1] > 21
    colours = {matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axes.patches}
    assert colours == {style.SKY, style.BLUE}
    assert style.picture(figure).std() > 1


def test_times_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"times \[2, 3\] must be \[1, 3\]"):
        bars.draw_times(np.ones((2, 3)), labels=["A"], title="", unit="")


def time_document(rows):
    return {"title": "T", "scale": "small", "kind": "time", "averages": False, "rows": rows}


def timed(label, steps, **fields):
    return {
        "label": label,
        "compared_with": "",
        "step_ms": steps,
        "step_ms_median": sorted(steps)[1],
        **fields,
    }


def test_a_document_of_epochs_is_bars_of_seconds():
    rows = [
        timed("A", [10.0, 30.0, 20.0], seconds_per_epoch=2.0),
        {"label": "B", "compared_with": ""},
    ]
    (axes,) = pictures.draw(time_document(rows)).axes
    np.testing.assert_allclose(next(iter(heights(axes).values())), [2.0, NAN])
    (container,) = [c for c in axes.containers if isinstance(c, BarContainer)]
    _, _, (lines,) = container.errorbar.lines
    np.testing.assert_allclose(lines.get_segments()[0][:, 0], [1.0, 3.0])
    assert "scale small" in axes.get_title(loc="left")


def test_a_document_of_overheads_is_pairs_of_bars():
    rows = [
        timed("A", [10.0, 30.0, 20.0]),
        timed("A + SAIB", [11.0, 33.0, 23.0], compared_with="A", overhead={"median": 0.1}),
        {"label": "B", "compared_with": ""},
        {"label": "B + SAIB", "compared_with": "B"},
    ]
    (axes,) = pictures.draw(time_document(rows)).axes
    np.testing.assert_array_equal(heights(axes)["with SAIB"], [23.0, NAN])
    assert [text.get_text() for text in axes.texts] == ["+10.0 %"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A", "B"]


def test_a_document_without_a_figure_has_none():
    document = time_document([]) | {"kind": "accuracy"}
    assert pictures.draw(document) is None
