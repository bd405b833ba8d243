"""Reads the tables of a Markdown text back."""

import re


def rows(text):
    """The cells of every line of its tables, but for the rulers: [[str, ...], ...]."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line[1:-1])] for line in lines]
    return [row for row in cells if not all(re.fullmatch("-+:?", cell) for cell in row)]
