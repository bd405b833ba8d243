"""What people look at once a network is trained: neighbours, a map of the features, each class.

The pictures and numbers come from the features that the evaluations computed. Where there are none,
a sample of the images is encoded. Labels are only used for colours and counts.

What imports Matplotlib is imported where it draws: a training begins without it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from iecl_jax import data
from iecl_jax.data import files
from iecl_jax.evals.measures import classes, feature_map, knn
from iecl_jax.evals.parts.subject import Sample, Subject
from iecl_jax.evals.pictures import gallery

FOLDER = "figures"
NEIGHBOURS, MAP, CLASSES = "neighbours.png", "feature_map.png", "classes.json"
QUERIES, NEAREST = 8, 8  # rows and neighbours of the picture
POINTS = 1000  # of the map; t-SNE then takes a few seconds
MOST_ENCODED = 2000  # images of a split that are encoded if no evaluation did it


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Writes figures/ of the run, on process 0. Returns {}: it is an evaluation without results.

    What cannot be drawn is left out with a warning, because a picture must not end a training.
    """
    if jax.process_index() == 0:
        folder = Path(subject.run_dir) / FOLDER
        for name, write in _WRITERS.items():
            try:
                write(subject, folder / name)
            except Exception as error:
                logging.warning("No %s/%s: %s", FOLDER, name, error)
    return {}


def draw_neighbours(
    subject: Subject, *, queries: int = QUERIES, k: int = NEAREST, encoded: int = MOST_ENCODED
) -> np.ndarray:
    """Draws test images with their nearest training images: uint8 [height, width, 3].

    The test images are of different classes, as far as there are enough. Without test images the
    queries are training images, which are not their own neighbours.

    Args:
      subject: the network and its data set.
      queries: the largest number of test images.
      k: the largest number of neighbours of each.
      encoded: how many images of a split are encoded if no evaluation encoded all.

    Raises:
      ValueError: there are fewer than two images.
    """
    from iecl_jax.evals.pictures import neighbours

    asked, bank = _queries(subject, encoded), _bank(subject, encoded)
    own = asked.split is bank.split
    k = min(k, len(bank.indices) - own)
    if k < 1:
        raise ValueError("there are fewer than two images.")
    shown = _of_different_classes(asked.labels, queries, subject.seed)
    cosines, rows = knn.nearest(bank.features, asked.features[shown], k=k + own)
    found = []
    for query, cosine, row in zip(shown, cosines, rows, strict=True):
        others = row != query if own else np.ones(len(row), bool)
        others[np.flatnonzero(others)[k:]] = False
        found.append((query, cosine[others], row[others]))
    wanted = np.concatenate([row for *_, row in found])
    images = iter(_images(subject, bank, wanted))
    query_images = _images(subject, asked, shown)
    return neighbours.draw(
        [
            neighbours.Row(
                query=image,
                label=int(asked.labels[query]),
                images=[next(images) for _ in row],
                labels=[int(label) for label in bank.labels[row]],
                cosines=[float(value) for value in cosine],
            )
            for image, (query, cosine, row) in zip(query_images, found, strict=True)
        ],
        asked.split.class_names,
        among_themselves=own,
    )


def draw_map(
    subject: Subject, *, method: str = "tsne", points: int = POINTS, encoded: int = MOST_ENCODED
) -> Any:
    """Returns Matplotlib's Figure of the features of test images in the plane.

    Call it within `style.context`.

    Args:
      subject: the network and its data set.
      method: see `measures.feature_map.project`.
      points: the largest number of images; they are drawn by the seed. Of more than twelve classes,
        twelve are drawn by the seed.
      encoded: see `draw_neighbours`.

    Raises:
      ValueError: see `measures.feature_map.project`.
    """
    from iecl_jax.evals.pictures import feature_map as map_picture

    sample = _queries(subject, encoded)
    generator = np.random.default_rng(subject.seed)
    labels, names = sample.labels, sample.split.class_names
    of_all, rows = "", np.arange(len(labels))
    present = np.unique(labels[labels >= 0])
    if len(present) > map_picture.MOST_CLASSES:
        chosen = generator.permutation(present)[: map_picture.MOST_CLASSES]
        rows = np.flatnonzero(np.isin(labels, chosen))
        of_all = f" of {len(chosen)} of {len(present)} classes"
    rows = np.sort(generator.permutation(rows)[:points])
    placed, used = feature_map.project(sample.features[rows], method=method, seed=subject.seed)
    kind = "training" if sample.split.is_train else "test"
    title = f"{feature_map.TITLES[used]} of the features of {len(rows)} {kind} images{of_all}"
    return map_picture.figure(placed, labels[rows], names, title)


def per_class(subject: Subject, *, encoded: int = MOST_ENCODED) -> dict[str, Any] | None:
    """Returns what `classes.per_class` does for kNN, with "images" and "bank", their numbers.

    Returns None if there are no labelled test images or fewer than two classes. `encoded`: see
    `draw_neighbours`.
    """
    asked, bank = _queries(subject, encoded), _bank(subject, encoded)
    known = int((bank.labels >= 0).sum())
    if asked.split is bank.split or not known or not (asked.labels >= 0).any():
        return None
    predicted = subject.work.predicted
    if predicted is None:
        predicted = knn.knn_predict(
            bank.features,
            bank.labels,
            asked.features,
            k=min(20, known),
            temperature=0.07,
            num_classes=bank.split.num_classes,
        )
    found = classes.per_class(predicted, asked.labels, asked.split.class_names)
    return {"images": int((asked.labels >= 0).sum()), "bank": known} | found


def _write_neighbours(subject: Subject, path: Path) -> None:
    gallery.save(draw_neighbours(subject), path)


def _write_map(subject: Subject, path: Path) -> None:
    from iecl_jax.evals.pictures import style

    with style.context():
        style.save(draw_map(subject), path)


def _write_classes(subject: Subject, path: Path) -> None:
    found = per_class(subject)
    if found is not None:
        with files.open_whole(path, "w") as file:
            file.write(json.dumps(found, indent=1) + "\n")


_WRITERS: dict[str, Callable[[Subject, Path], None]] = {
    NEIGHBOURS: _write_neighbours,
    MAP: _write_map,
    CLASSES: _write_classes,
}


def _bank(subject: Subject, encoded: int) -> Sample:
    """Returns training images. One class tells nothing apart, so its labels count as unknown."""
    return _unless_one_class(subject.sample("train", encoded))


def _queries(subject: Subject, encoded: int) -> Sample:
    """Returns test images, or training images if there are none."""
    try:
        return _unless_one_class(subject.sample("test", encoded))
    except ValueError:
        return _bank(subject, encoded)


def _unless_one_class(sample: Sample) -> Sample:
    if sample.split.num_classes > 1:
        return sample
    return sample._replace(labels=np.full_like(sample.labels, -1))


def _of_different_classes(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Returns up to `most` rows, drawn by the seed, of as many classes as possible, by class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    _, first = np.unique(labels[order], return_index=True)
    chosen = [*order[np.sort(first)], *order[np.sort(np.setdiff1d(np.arange(len(order)), first))]]
    rows = np.array(chosen[:most])
    return rows[np.argsort(labels[rows], kind="stable")]


def _images(subject: Subject, sample: Sample, rows: np.ndarray) -> np.ndarray:
    """Returns images of a sample as the encoder saw them, before normalisation: uint8 [n,H,W,3]."""
    indices = sample.indices[rows]
    batches = data.eval_batches(subject.config.data, sample.split, len(indices), indices)
    return next(batches)["image"]
