"""Writes a run's report, WORKDIR/report.html, one page that any browser opens without a server.

    python -m iecl_jax.tools.figures.report --workdir=RUN

It only reads the log (`run.events`), config.json, provenance.json, results.json and figures/ of the
run. If one is missing or cannot be read, a sentence in its place says so.
"""

import datetime
import functools
import html
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging

from iecl_jax.config import kinds, naming, own_files
from iecl_jax.config.naming import at
from iecl_jax.evals.parts import results as evaluation_results
from iecl_jax.run import command_line, events
from iecl_jax.run.workdir import write_atomically
from iecl_jax.tools import arguments
from iecl_jax.tools.figures import chart, overview, page, sections
from iecl_jax.tools.figures.sections import Section

NAME = "report.html"
_ABSENT = "n/a"
_IMAGES = "{data.name}, {data.image_size} px"
_PICTURES = {
    "gallery": "Source images, the two views, SAIB's output for the query view on the scale of its "
    "input, and what SAIB added to it.",
    "jacobian_spectrum": "Singular values of SAIB's Jacobian on one group of query views. Each bar "
    "is a node of Lanczos quadrature, or several, and stands for the values around it.",
}


def write(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes WORKDIR/report.html, whole or not at all, and returns its path.

    A file of the run that is missing or damaged raises nothing; the page reports it.

    Raises:
      OSError: the page cannot be written.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / NAME
    write_atomically(path, render(workdir))
    return path


def render(workdir: pathlib.Path) -> str:
    """Returns the report of a WORKDIR as HTML."""
    config = _read(workdir / "config.json", dict)
    starts = _read(workdir / "provenance.json", list)
    results = _read(workdir / "results.json", dict)
    try:
        run, silence = events.read(workdir), ""
    except (ValueError, OSError) as error:
        run, silence = events.Events({}, {}), str(error)
    name = workdir.absolute().name
    parts: list[Callable[[], str]] = [
        lambda: _header(name, config, starts, results),
        lambda: _results(results, at(config, "eval.names")),
        lambda: overview.section(workdir, config),
    ]
    if at(config, "job") in (None, "pretrain"):
        parts += [functools.partial(_section, each, run, config) for each in sections.SECTIONS]
        parts.append(lambda: _gallery(run))
        if silence:
            missing = f"No curves and no pictures: {silence}"
            parts.insert(2, functools.partial(page.paragraph, missing, "missing"))
    else:
        parts.append(lambda: of_evaluation(run, at(config, "job")))
    parts += [
        lambda: _others(run),
        lambda: _origin(starts, results),
        lambda: _config(config),
    ]
    return page.frame(f"{name}: report", "\n".join(map(_whatever_happens, parts)))


def _whatever_happens(part: Callable[[], str]) -> str:
    """Returns a part, or a sentence if it fails: a report must not fail a finished training."""
    try:
        return part()
    except Exception as error:
        logging.warning("A part of the report is left out.", exc_info=True)
        return page.paragraph(f"A part is left out: {type(error).__name__}: {error}", "missing")


def _read(path: pathlib.Path, kind: type) -> Any:
    """Returns the JSON of a file if it has that type, else an empty value of the type."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return kind()
    return value if isinstance(value, kind) else kind()


def _header(name: str, config: Any, starts: Any, results: Any) -> str:
    last, checkpoint = _last(starts), at(config, "checkpoint")
    facts = {
        "Method": naming.trained(config),
        "SAIB": _saib(config),
        "Encoder": _encoder(at(config, "encoder")),
        "Checkpoint": checkpoint if isinstance(checkpoint, str) else None,
        "Data": next(filter(None, (_text(each, _IMAGES) for each in (results, config))), None),
        "Training": _text(
            config, "batches of {train.batch_size}, {optimizer.name}, {train.precision}"
        ),
        "Steps": results.get("steps") or None,
        "Seed": results.get("seed", at(config, "seed")),
        "Time": _duration(results),
        "Device": results.get("device") or last.get("device"),
        "Started": last.get("time"),
    }
    command = command_line.shown(last.get("command", []))
    method, images = naming.trained(config), at(config, "data.name")
    title = f"{method} on {images}" if method and images else str(at(config, "job") or name)
    if isinstance(checkpoint, str) and checkpoint:
        title += f" of {_run_of(checkpoint)}"
    unfinished = "" if results else page.paragraph("No results.json: not finished.", "missing")
    return (
        f"<h1>{html.escape(title)}</h1>{page.paragraph(name, 'lead')}"
        f"{unfinished}{page.facts(facts)}{page.listing(command) if command else ''}"
    )


def _run_of(checkpoint: str) -> str:
    """Returns the name of a run from its folder, or from one of its checkpoints/STEP."""
    path = pathlib.Path(checkpoint).absolute()
    return path.parents[1].name if path.parent.name == "checkpoints" else path.name


def _encoder(settings: Any) -> str | None:
    """Returns the encoder's name and those of its settings that are not 0, False or empty."""
    if not isinstance(settings, Mapping) or "name" not in settings:
        return None
    on = [f"{key}={value}" for key, value in settings.items() if key != "name" and value]
    return ", ".join([str(settings["name"]), *on])


def _saib(config: Any) -> str | None:
    if at(config, "saib.enabled") is False:
        return "off"
    return _text(
        config,
        "{saib.variant} variant, groups of {saib.group_size}, patches of {saib.patch_size} px, "
        "{saib.num_blocks} in a row",
    )


def _text(config: Any, template: str) -> str | None:
    """Returns the template with config values for its {dotted.keys}; None if one is missing."""
    for piece in template.split("{")[1:]:
        key = piece.split("}")[0]
        if at(config, key) in (None, ""):
            return None
        template = template.replace("{" + key + "}", str(at(config, key)))
    return template


def _duration(results: Any) -> str | None:
    seconds, speed = results.get("seconds"), results.get("images_per_second")
    if seconds is None:
        return None
    text = str(datetime.timedelta(seconds=round(seconds)))
    return f"{text} h, {chart.number_text(speed)} images/s" if speed else f"{text} h"


def _code(git: Any) -> str | None:
    if not git:
        return None
    return f"{git.get('revision')}{', with changes' if git.get('dirty') else ''}"


def _results(results: Any, evaluations: Any) -> str:
    metrics = results.get("metrics") or {}
    # An evaluation of untrusted code has no words here: a report must not run it.
    known = [name for name in evaluations or () if not own_files.is_foreign(name)]
    words = evaluation_results.words(known)
    scores = [
        [*evaluation_results.shown(text, metrics[name])]
        for name, text in words.items()
        if name in metrics
    ]
    body = page.table(["on the test split at the end", ""], scores) if scores else ""
    comparison = metrics.get("comparison")
    if comparison:
        rows = [
            [
                name,
                f"{_percent(row, 'linear_few_mean')} ± {_percent(row, 'linear_few_std')}",
                _percent(row, "knn_top1"),
            ]
            for name, row in comparison.items()
        ]
        head = ["representation", "few labels, linear (%)", "all labels, kNN (%)"]
        body += page.table(head, rows)
    if not body:
        body = page.paragraph(
            "No accuracies: there is no finished evaluation with labels.", "missing"
        )
    rest = [[name, _value(value)] for name, value in _leaves(metrics)]
    if rest:
        body += page.folded("All final values", page.table(["measure", "value"], rest))
    return f"<h2>Results</h2>{body}"


def _percent(row: Mapping[str, Any], name: str, decimals: int = 1) -> str:
    return _ABSENT if row.get(name) is None else f"{100 * row[name]:.{decimals}f}"


def _value(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return chart.number_text(value)
    return json.dumps(value)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _leaves(value, f"{prefix}{name}: ")
        else:
            found.append((prefix + name, value))
    return found


def _section(section: Section, run: events.Events, config: Any) -> str:
    charts = [panel.draw(run.scalars) for panel in section.panels]
    body = page.charts(charts) if any(charts) else _missing(section, config)
    if section is sections.JACOBIAN:
        body += _picture(run, "jacobian_spectrum", _PICTURES["jacobian_spectrum"])
    if section is sections.PRESERVATION:
        body += _layers(run)
    return f"<h2>{html.escape(section.title)}</h2>{page.paragraph(section.text, 'lead')}{body}"


def _missing(section: Section, config: Any) -> str:
    unmet = [
        f"{key}={at(config, key)}" for key, met in section.needs.items() if not met(at(config, key))
    ]
    if unmet and config:
        return page.paragraph(f"Not measured: this run has {' and '.join(unmet)}.", "missing")
    return page.paragraph("Not in the log of the run.", "missing")


def _layers(run: events.Events) -> str:
    rows = [
        [path, *(_ABSENT if norm is None else chart.number_text(norm) for norm in norms)]
        for path, norms in sections.layer_norms(run.scalars)
    ]
    if not rows:
        return ""
    head = ["convolution", *sections.LAYER_TAGS.values()]
    return page.folded(
        f"Spectral norm of each of {len(rows)} convolutions at the end", page.table(head, rows)
    )


def _picture(run: events.Events, tag: str, text: str) -> str:
    if tag not in run.pictures:
        return ""
    step, png = run.pictures[tag]
    caption = html.escape(f"Step {step}. {text}")
    return (
        f'<figure class="wide">{page.image(png, text)}<figcaption>{caption}</figcaption></figure>'
    )


def of_evaluation(run: events.Events, job: str) -> str:
    """Returns the pictures that the training of a job wrote, if it has one."""
    if own_files.is_foreign(job):
        return ""
    captions = getattr(kinds.load("evaluation", job, key="job"), "PICTURES", {})
    drawn = "".join(_picture(run, tag, text) for tag, text in captions.items())
    return f"<h2>Pictures</h2>{drawn}" if drawn else ""


def _gallery(run: events.Events) -> str:
    drawn = _picture(run, "gallery", _PICTURES["gallery"]) or page.paragraph(
        "No gallery was drawn.", "missing"
    )
    return f"<h2>Gallery</h2>{drawn}"


def _others(run: events.Events) -> str:
    charts = [panel.draw(run.scalars) for panel in sections.others(run.scalars)]
    return page.folded("Other curves", page.charts(charts)) if charts else ""


def _last(starts: Any) -> Mapping[str, Any]:
    return starts[-1] if starts and isinstance(starts[-1], Mapping) else {}


def _origin(starts: Any, results: Any) -> str:
    last = _last(starts)
    versions = results.get("versions") or last.get("versions") or {}
    facts = {
        "Versions": ", ".join(f"{key} {value}" for key, value in versions.items() if value),
        "Code": _code(last.get("git")),
        "Digest of the parameters": str(results.get("params_digest", ""))[:16],
    }
    if starts:
        count = f"{len(starts)} starts" if len(starts) > 1 else "One start"
        listed = page.folded(count, page.listing(json.dumps(starts, indent=2)))
    else:
        listed = page.paragraph("No provenance.json.", "missing")
    return f"<h2>Origin</h2>{page.facts(facts)}{listed}"


def _config(config: Any) -> str:
    if not config:
        return page.paragraph("No config.json.", "missing")
    return page.folded("Config", page.listing(json.dumps(config, indent=2)))


def main(words: Sequence[str] | None = None) -> None:
    """Writes the report of the run that the command line names."""
    parser = arguments.Parser(__doc__, overrides=False)
    parser.add_argument("--workdir", required=True, type=arguments.folder)
    arguments.add_trust(parser)
    args = parser.parse(words)
    own_files.trust_checkpoints(args.trust_checkpoint_code)
    if not (args.workdir / "config.json").exists():
        parser.error(f"{args.workdir} is not the workdir of a run: it has no config.json.")
    with own_files.sentences():
        print(write(args.workdir))


if __name__ == "__main__":
    main()
