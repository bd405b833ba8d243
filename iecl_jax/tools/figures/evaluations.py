"""Writes the report of all evaluations of a checkpoint, as Markdown and as a page."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iecl_jax.evals.parts import results
from iecl_jax.evals.parts.overview import FOLDER
from iecl_jax.run import events, markdown
from iecl_jax.tools.figures import overview, page, report

_HEAD = ["on the test images", "mean", "±", "seeds"]


def markdown_page(document: Mapping[str, Any]) -> str:
    """Returns what `tools.evaluate.collect` found, as Markdown."""
    table = markdown.table(_HEAD, [*_rows(document)])
    missing = "".join(
        f"- {name}: not measured: {why}.\n" for name, why in document["not_measured"].items()
    )
    about = _about(document)
    facts = "".join(f"- {name}: {text}\n" for name, text in about.items())
    return f"# {_title(document)}\n\n{facts}\n{table}" + (f"\n{missing}" if missing else "")


def html_page(document: Mapping[str, Any]) -> str:
    """Returns what `tools.evaluate.collect` found as a page, with the pictures of the runs."""
    body = f"<h1>Evaluations</h1>{page.facts(_about(document))}"
    body += page.listing(document["command"]) + page.table(_HEAD, [*_rows(document)])
    if document["not_measured"]:
        rows = [[name, why] for name, why in document["not_measured"].items()]
        body += page.table(["not measured", ""], rows)
    for name, found in document["evaluations"].items():
        folder = Path(found["folder"])
        if (folder / FOLDER).is_dir():
            body += overview.section(folder, {})
        body += _pictures(name, folder)
        numbers = [
            [number, *(f"{value:.5g}" for value in (each["mean"], each["std"]))]
            for number, each in found["metrics"].items()
            if each["mean"] is not None
        ]
        body += page.folded(f"All numbers of {name}", page.table(["", "mean", "±"], numbers))
    return page.frame(_title(document), body)


def _title(document: Mapping[str, Any]) -> str:
    return f"Evaluations of {Path(document['checkpoint']).name}"


def _about(document: Mapping[str, Any]) -> dict[str, str]:
    data = document["data"] or {}
    images = f"{data['name']}, {data['image_size']} px" if data else ""
    found = {"Checkpoint": document["checkpoint"], "Images": images}
    return {name: text for name, text in found.items() if text}


def _rows(document: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields a row for each number that has a description, in the order of the evaluations.

    Of an evaluation without descriptions, those that are in no table have a row.
    """
    words = results.words(document["evaluations"])
    for name, found in document["evaluations"].items():
        numbers = {n: each for n, each in found["metrics"].items() if each["mean"] is not None}
        told = {number: words[number] for number in numbers if number in words}
        told = told or {number: f"{name}, {number}" for number in numbers if "/" not in number}
        for number, about in told.items():
            text, mean = results.shown(about, numbers[number]["mean"])
            spread = results.shown(about, numbers[number]["std"])[1] if found["seeds"] > 1 else ""
            yield [text, mean, spread, str(found["seeds"])]


def _pictures(name: str, folder: Path) -> str:
    try:
        job = json.loads((folder / "config.json").read_text(encoding="utf-8"))["job"]
        return report.of_evaluation(events.read(folder), job)
    except (OSError, ValueError, LookupError):
        return ""
