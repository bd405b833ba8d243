"""Markdown tables."""

import pytest
from markdown_rows import rows

from iecl_jax.run import markdown

pytestmark = pytest.mark.quick

LINES = [["name", "of", "a|b"], ["long words", "x", "1.5"], ["", "", "-10.25"]]


@pytest.mark.parametrize("text", [0, 1, 2, 3])
def test_columns_line_up_words_to_the_left_and_numbers_to_the_right(text):
    found = markdown.table(LINES[0], LINES[1:], text=text)
    assert [[cell.replace("\\|", "|") for cell in row] for row in rows(found)] == LINES
    assert found.endswith("|\n")
    lines = found.splitlines()
    assert len({len(line) for line in lines}) == 1
    ruler = lines[1][1:-1].split("|")
    assert [cell.strip().endswith(":") for cell in ruler] == [i >= text for i in range(3)]
    assert lines[2].startswith("| long words | x") == (text > 1)


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        markdown.table(["a", "b"], [["1"]])
