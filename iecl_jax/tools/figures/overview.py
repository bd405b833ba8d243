"""The part of the report on what a network finds similar: classes, neighbours, the feature map."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iecl_jax.config.naming import at
from iecl_jax.evals.parts import overview
from iecl_jax.tools.figures import page

_MOST, _WORST, _BEST, _PAIRS = 20, 10, 5, 5  # rows
_TEXTS = {
    overview.NEIGHBOURS: (
        "Nearest neighbours",
        "Test images on the left, each with the training images whose features have the largest "
        "cosine to its own. The number is the cosine. A blue frame is the class of the test image, "
        "a red broken frame is another class, and a grey frame is unlabelled.",
    ),
    overview.MAP: (
        "Map of the features",
        "Each point is an image. Images with similar features lie near each other; distances "
        "between groups mean little. The colours are classes, which the training did not see.",
    ),
}


def section(workdir: Path, config: Any) -> str:
    """Returns the section as HTML, from the files in WORKDIR/figures that `evals` wrote."""
    folder = workdir / overview.FOLDER
    pictures = []
    for name, (title, text) in _TEXTS.items():
        if (folder / name).is_file():
            drawn = page.image((folder / name).read_bytes(), f"{title}. {text}")
            pictures.append(
                f"<figure><h3>{title}</h3>{drawn}<figcaption>{text}</figcaption></figure>"
            )
    body = (page.pairs(pictures) if pictures else "") + _classes(folder / overview.CLASSES)
    body = body or page.paragraph(_reason(config), "missing")
    return f"<h2>What the encoder finds similar</h2>{body}"


def _reason(config: Any) -> str:
    for key in ("eval.pictures", "pictures"):
        if at(config, key) is False:
            return f"Not drawn: this run has {key}=False."
    return f"There are no pictures in {overview.FOLDER}/."


def _classes(path: Path) -> str:
    """Returns the accuracy of each class, lowest first, and the most frequent confusions."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    rows, pairs = found["classes"], found["confusions"][:_PAIRS]
    bank = f"{found['bank']:,} labelled training images"
    text = f"By kNN on {found['images']:,} test images among {bank}."
    if len(rows) > _MOST:
        text += f" The {_WORST} lowest and the {_BEST} highest of {len(rows)} classes."
        rows = [*rows[:_WORST], *rows[-_BEST:]]
    parts = [f"<h3>Accuracy of each class</h3>{page.paragraph(text, 'lead')}"]
    parts.append(page.bars(["class", "right (%)", "test images"], [_bar(row) for row in rows]))
    if pairs:
        cells = [[pair["name"], pair["taken_for"], str(pair["images"])] for pair in pairs]
        head = ["most often mistaken", "for", "test images"]
        parts.append(page.table(head, cells))
    return "".join(parts)


def _bar(row: Mapping[str, Any]) -> tuple[str, float, list[str]]:
    share = float(row["accuracy"])
    return str(row["name"]), share, [f"{100 * share:.1f}", f"{row['images']:,}"]
