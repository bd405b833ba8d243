"""Tables in Markdown, which are also read as they are, in a terminal."""

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> str:
    """A table whose columns line up; every line ends.

    Args:
      titles: the heads of the columns.
      rows: a cell for each column; a "|" in one is escaped.
      text: how many columns, from the left, are words and stand to the left. The others are
        numbers and stand to the right.
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (titles, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<"] * text + [">"] * (len(titles) - text)
    padded = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)]
        for line in lines
    ]
    return head(padded[0], text=text) + "".join(map(row, padded[1:]))


def head(titles: Sequence[str], *, text: int = 1) -> str:
    """The first two lines, for a table whose rows are printed one by one (see `table`)."""
    widths = [max(3, len(title)) for title in titles]
    words = ["-" * width for width in widths[:text]]
    return row(titles) + row(words + ["-" * (width - 1) + ":" for width in widths[text:]])


def row(cells: Sequence[str]) -> str:
    """One line; its cells are written as they are."""
    return f"| {' | '.join(cells)} |\n"
