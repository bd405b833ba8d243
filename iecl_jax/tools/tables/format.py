"""Formats the JSON of a table as Markdown: measured numbers beside the published ones.

The JSON, called document here, is {"title", "source", "kind", "metrics", "change", "corner",
"averages", "notes", "scale", "command", "rows"}. The rows are those of `results.record` or
`times.records`. Metrics are fractions in the document and percent in the Markdown. Numbers that
were not measured are blank.
"""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from iecl_jax.run import markdown
from iecl_jax.tools.benchmark import timing
from iecl_jax.tools.tables.results import different

Document = Mapping[str, Any]
NOT_COMPARABLE = (
    "The published numbers are of other images, networks and lengths of training: they cannot be "
    "compared with what was measured at this scale. Nor does that rank the methods, whose recipes "
    "are made for hundreds of epochs."
)
TIMED = (
    "the training step with its augmentation, on one batch of random images; no input pipeline, no "
    "logging, no evaluation"
)


def page(document: Document) -> str:
    """Returns the whole page of a table: heading, description of the measurement, and numbers."""
    body = {"accuracy": _accuracy, "grid": _grid, "time": _time}[document["kind"]](document)
    return f"# {document['title']}\n\n{_header(document)}\n{body}"


def grid(document: Document) -> tuple[list[str], list[str], dict[tuple[str, str], dict]]:
    """Returns (row names, column names, {(row, column): record}) of a document of kind grid."""
    cells = {(row["cell"][0], row["cell"][1]): row for row in document["rows"]}
    rows, columns = ([cell[side] for cell in cells] for side in (0, 1))
    return list(dict.fromkeys(rows)), list(dict.fromkeys(columns)), cells


def measured_mean(record: Mapping[str, Any], name: str = "linear_top1") -> float | None:
    """Returns the mean of linear or kNN top-1 in percent; None if it was not measured."""
    return None if record[name] is None else 100 * record[name]["mean"]


def average(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values; None if one of them is missing."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _header(document: Document) -> str:
    rows = document["rows"]
    facts = {
        name: _distinct(rows, name) for name in ("data", "device", "versions", "git", "protocol")
    }
    lines = [f"- Scale: {document['scale']}. Made by `{document['command']}`."]
    for name in ("data", "device"):
        if facts[name]:
            lines.append(f"- {name.capitalize()}: {'; '.join(facts[name])}.")
    if facts["git"]:
        lines.append(f"- Revision: {'; '.join(_revision(state) for state in facts['git'])}.")
    if document["kind"] == "time":
        lines.append(f"- Protocol: {TIMED}; median of the rounds, and their range.")
    for protocol in facts["protocol"]:
        lines.append(f"- Protocol: {protocol}.")
    lines.append(f"- Published: {document['source']}.")
    lines += [f"- {note}" for note in document["notes"]]
    if document["scale"] != "paper":
        lines.append(f"- {NOT_COMPARABLE}")
    for name, words in (("git", "revisions"), ("device", "devices"), ("versions", "versions")):
        if len(facts[name]) > 1:
            lines.append(f"- Warning: not everything was measured with the same {words}.")
    if not any(row.get("seeds") or row.get("step_ms") for row in rows):
        lines.append("- Nothing is measured yet.")
    return "\n".join(lines) + "\n"


def _distinct(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    found = [row[name] for row in rows if row.get(name) is not None]
    return different([v for value in found for v in (value if type(value) is list else [value])])


def _revision(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "unknown"
    return state["revision"][:7] + (" with uncommitted changes" if state["dirty"] else "")


def _accuracy(document: Document) -> str:
    metrics, rows = document["metrics"], document["rows"]
    # The paper has a number of one metric, or of each.
    several = any(type(row["published"]) in (list, tuple) for row in rows)
    of_paper = [f"published {title}" for title in metrics.values()] if several else ["published"]
    titles = ["", *metrics.values(), "seeds", *of_paper]
    if document["change"]:
        titles.append(f"{document['change']} (95 % interval)")
    lines = []
    for row in rows:
        cells = [row["label"], *(_spread(row[name]) for name in metrics)]
        published = (row["published"] or [None] * len(metrics)) if several else [row["published"]]
        cells += [str(len(row["seeds"]) or ""), *map(_published, published)]
        lines.append(cells + ([_change(row["change"])] if document["change"] else []))
    note = ""
    if document["change"]:
        note = (
            "\nThe change is that of the first column in points, the mean over the seeds that both "
            "rows have; its interval is Student's.\n"
        )
    return markdown.table(titles, lines) + note


def _cell(record: Mapping[str, Any], name: str) -> str:
    return _spread(record[name])


def _grid(document: Document) -> str:
    rows, columns, cells = grid(document)
    corner = " / ".join(document["corner"])
    averages = ["average"] if document["averages"] else []
    pages = []
    shown: list[tuple[str, Callable[[Any], str], Callable[[Any], float | None]]] = [
        (
            f"Measured: {title}",
            functools.partial(_cell, name=metric),
            functools.partial(measured_mean, name=metric),
        )
        for metric, title in document["metrics"].items()
    ]
    shown.append(
        ("published", lambda row: _published(row["published"]), lambda row: row["published"])
    )
    for heading, text, value in shown:
        lines = []
        for name in rows:
            found = [cells[name, column] for column in columns]
            mean = average([value(row) for row in found]) if averages else None
            last = [_blank(mean, "{:.1f}")] if averages else []
            lines.append([name, *map(text, found), *last])
        pages.append(f"{heading}\n\n{markdown.table([corner, *columns, *averages], lines)}")
    seeds = different([row["seeds"] for row in document["rows"] if row["seeds"]])
    words = "; ".join(", ".join(map(str, each)) for each in seeds)
    return "\n".join(pages) + (f"\nSeeds: {words}.\n" if seeds else "")


def _time(document: Document) -> str:
    rows = {row["label"]: row for row in document["rows"]}
    compared = {row["compared_with"]: row for row in rows.values() if row["compared_with"]}
    if not compared:
        titles = ["", "seconds an epoch", "ms a step", "images a second", "batch"]
        return markdown.table(titles, [[row["label"], *_epoch(row)] for row in rows.values()])
    titles = ["", "ms a step", "with SAIB", "SAIB's overhead, %", "batch", "published"]
    lines = []
    for label, other in compared.items():
        overhead = other.get("overhead")
        percent = {name: 100 * value for name, value in overhead.items()} if overhead else None
        cells = [label, _step(rows[label]), _step(other)]
        cells.append(timing.spread(percent, "{:+.1f}") if percent else "")
        cells += [_blank(other.get("batch_size"), "{}"), _published(other["published"])]
        lines.append(cells)
    note = (
        "\nBoth of a row were measured in turn, in one process; the overhead is the median over "
        "the rounds of the ratio of their times less one.\n"
    )
    return markdown.table(titles, lines) + note


def _epoch(row: Mapping[str, Any]) -> list[str]:
    numbers = [(row.get("images_per_second"), "{:.1f}"), (row.get("batch_size"), "{}")]
    seconds = _blank(row.get("seconds_per_epoch"), "{:.1f}")
    return [seconds, _step(row), *(_blank(value, form) for value, form in numbers)]


def _step(row: Mapping[str, Any]) -> str:
    times = row.get("step_ms")
    if not times:
        return ""
    found = timing.extent(times) | {"median": row["step_ms_median"]}
    return timing.spread(found, "{:.1f}")


def _spread(found: Mapping[str, Any] | None) -> str:
    """Returns `MEAN ± STANDARD DEVIATION` in percent."""
    if found is None:
        return ""
    deviation = "" if found["std"] is None else f" ± {100 * found['std']:.1f}"
    return f"{100 * found['mean']:.1f}{deviation}"


def _change(found: Mapping[str, Any] | None) -> str:
    """Returns `MEAN [LOW, HIGH]` in percentage points."""
    if found is None:
        return ""
    interval = ""
    if found["low"] is not None:
        interval = f" [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"
    return f"{100 * found['mean']:+.1f}{interval}"


def _published(value: float | str | None) -> str:
    return "" if value is None else str(value)


def _blank(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)
