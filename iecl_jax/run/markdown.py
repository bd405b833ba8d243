"""Formats Markdown tables whose columns also line up in a terminal."""

from collections.abc import Sequence


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, text: int = 1) -> str:
    """Returns a table whose columns line up; every line ends with a newline.

    Args:
      titles: the titles of the columns.
      rows: rows of cells, one cell per column; a "|" in a cell is escaped.
      text: number of columns, from the left, that contain text and are aligned left. The others
        contain numbers and are aligned right.
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (titles, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    sides = ["<"] * text + [">"] * (len(titles) - text)
    padded = [
        [f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)]
        for line in lines
    ]
    ruler = [
        "-" * (width - 1) + (":" if side == ">" else "-") for side, width in zip(sides, widths)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], ruler, *padded[1:]))
