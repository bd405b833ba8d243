"""Event files for the tests of the figures, written as training writes them."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from iecl_jax.run import summaries

STEPS = (10, 20, 30)
NAMES = {
    "train": "loss method_loss kl entropy learning_rate grad_norm_online images_per_second epoch",
    "eval": "knn_top1 online_probe_top1",
    "diagnostics": "log_det log_det_stderr sigma_min sigma_max entropy_anchor entropy_query "
    "entropy_query_saib entropy_gain rank_me feature_std alignment uniformity conv_matrix_norm "
    "conv_operator_norm",
    "conv_matrix_norm": "stem",
    "conv_operator_norm": "stem",
}
TAGS = [f"{group}/{name}" for group, names in NAMES.items() for name in names.split()]
TAGS.append("train/info_nce")  # a method's own


@contextlib.contextmanager
def writing(workdir: pathlib.Path, step: int = 0) -> Iterator[summaries.Summaries]:
    """The writer of a run that has taken `step` steps; all is written at the end."""
    writer = summaries.create_writer(str(workdir), step=step)
    yield writer
    writer.close()


def only_event_files(workdir: pathlib.Path) -> pathlib.Path:
    """Removes what earlier revisions did not write."""
    (workdir / "metrics.jsonl").unlink()
    for folder in workdir.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    return workdir


def write_curves(workdir: pathlib.Path, tags: list[str] = TAGS) -> None:
    """Every tag at STEPS, with a value of its own, and both pictures at the last step."""
    with writing(workdir) as writer:
        for step in STEPS:
            writer.write_scalars(
                step, {tag: 0.5 + number + step / 100 for number, tag in enumerate(tags)}
            )
        for tag, grey in (("gallery", 100), ("jacobian_spectrum", 200)):
            writer.write_images(STEPS[-1], {tag: np.full((8, 8, 3), grey, np.uint8)})


def write_json(workdir: pathlib.Path, config: dict) -> None:
    """config.json, provenance.json and results.json of a finished run."""
    provenance = [
        {
            "time": "2030-01-02T03:04:05+00:00",
            "command": ["main.py", "--config=configs/quickstart.py"],
            "git": {"revision": "0123abcd", "dirty": True},
            "versions": {"jax": "1.2.3"},
            "device": "1 x cpu",
            "config_changes": [],
        }
    ]
    scores = {"linear_few_mean": 0.875, "linear_few_std": 0.0125, "knn_top1": 0.625}
    results = {
        "job": "pretrain",
        "metrics": {"loss": 3.25, "knn_top1": 0.9375, "comparison": {"raw pixels": scores}},
        "steps": 30,
        "seconds": 61.0,
        "images_per_second": 123.0,
        "seed": 7,
        "params_digest": "f" * 64,
        "device": "1 x cpu",
        "versions": {"jax": "1.2.3", "absent": None},
    }
    workdir.mkdir(parents=True, exist_ok=True)
    for name, value in (("config", config), ("provenance", provenance), ("results", results)):
        (workdir / f"{name}.json").write_text(json.dumps(value))
