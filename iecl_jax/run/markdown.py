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
    ruler = [
        "-" * (width - 1) + (":" if side == ">" else "-") for side, width in zip(sides, widths)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in (padded[0], ruler, *padded[1:]))
