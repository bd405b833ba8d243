"""Detection on PASCAL VOC (Table 2b): trains the encoder with Faster R-CNN and a feature pyramid.

The measure is the mean over the classes of VOC's average precision at IoU 0.5, by area (VOC 2010
and later) and at 11 points (VOC 2007), beside that of COCO. See docs/voc.md.
"""

from typing import Any

import jax
import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import BOXES, COUNT, PIXELS, SHARES
from iecl_jax.config.section import key, with_defaults
from iecl_jax.data.augment import dense
from iecl_jax.data.crops import view_generator
from iecl_jax.data.voc.annotation import ORIGINS
from iecl_jax.data.voc.tree import Tree
from iecl_jax.evals.measures import average_precision
from iecl_jax.evals.measures.average_precision import Detections
from iecl_jax.evals.parts import backbone, training, voc
from iecl_jax.evals.parts.detector import Network, Predictor
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.evals.parts.training import Optimizer, Schedule, Task, Training
from iecl_jax.evals.pictures import dense as pictures
from iecl_jax.evals.pictures import style
from iecl_jax.models.detection import faster_rcnn

NAME = "detection"
RESULTS = {
    "map": "detection, mean AP at IoU 0.5 by area, VOC 2010 (%)",
    "map_11_points": "mean AP at IoU 0.5 at 11 points, VOC 2007 (%)",
    "map_trivial": "mean AP of the whole image as a box of each class (%)",
    "coco_ap": "COCO's AP (%)",
    "coco_ap50": "COCO's AP50 (%)",
    "coco_ap75": "COCO's AP75 (%)",
}
PICTURES = {
    "boxes": "Test images with their objects and those that were found. Grey ones are difficult.",
    "precision_recall": "Precision over recall of each class on the test images, at IoU 0.5.",
    "ap_of_classes": "Average precision of each class at IoU 0.5, by area.",
}
_SHOWN = 8  # test images in the picture
_LEAST = 0.3  # score of the boxes in the picture


class Data(voc.Images):
    """The keys of `config.data`."""

    box_origin = key(
        "voc", ORIGINS, "voc: pixels count from 1, and the last is inside; as_is: numbers as given"
    )


class Job(Training, faster_rcnn.Settings):
    """The settings on a checkpoint."""

    num_steps = key(24_000, COUNT, "steps of the training")
    image_size = key(1024, PIXELS, "side of the square into which images are placed, in pixels")
    scale = key(
        (0.6, 1.0), SHARES, "limits of the random scale; at 1 the image is as large as it fits"
    )
    max_objects = key(64, BOXES, "most objects in an image; more are refused")
    train_difficult = key(True, None, "train on difficult objects too, as detectron2 does")
    optimizer = with_defaults(Optimizer, {"learning_rate": 0.02, "weight_decay": 1e-4})
    schedule = with_defaults(
        Schedule, {"decay": "drops", "drop_at": (0.75, 0.92), "warmup_steps": 100}
    )


class Settings(AtEnd, Job):
    """The settings during a training, where this evaluation is refused."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if the images, the encoder or the devices do not fit the settings."""
    faster_rcnn.check(NAME, settings)
    images = _images(subject)
    training.check(NAME, settings, len(images.train))
    for index, name in enumerate(images.train.ids):
        count = len(images.train.objects(index).labels)
        if count > settings.max_objects:
            raise ValueError(
                f"{NAME}.max_objects={settings.max_objects} is less than the {count} objects of "
                f"the image {name}: raise it."
            )
    if subject.params is not None:
        training.check_resume(subject, task_of(subject, settings), settings)


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Trains, and returns RESULTS in [0, 1] and {"ap": {class: AP}}, with the last metrics."""
    task = task_of(subject, settings)
    return training.train(subject, task, settings)[1]


def _images(subject: Subject) -> voc.Splits:
    return voc.splits(subject, NAME, needs="boxes")


@training.built_once
def task_of(subject: Subject, settings: Any) -> Task:
    """Returns the training of a subject."""
    images, reading = _images(subject), subject.own_data
    assert reading is not None
    encoder = backbone.of_subject(
        subject,
        precision=settings.precision,
        remat=settings.remat,
        output_stride=faster_rcnn.STRIDE,
        stages=faster_rcnn.STAGES,
        name=NAME,
    )
    network = Network(encoder, settings, len(images.train.classes))
    predictor = Predictor(network, images.test, settings, reading.num_threads)
    evaluation = Evaluation(predictor, subject.seed)
    return Task(
        name=NAME,
        title="Training the detection",
        params={"encoder": encoder.params, "head": network.init(jax.random.key(subject.seed))},
        stats={"encoder": encoder.stats, "head": {}},
        loss=network.loss,
        open_batches=voc.batches(subject, images.train, read, settings),
        images=images.train.identity,
        evaluate=evaluation.scores,
        draw=evaluation.draw,
        words=RESULTS,
    )


def read(split: Tree, settings: Any, seed: int, index: int, step: int, place: int) -> Any:
    """Returns a training image at a random scale, mirrored or not.

    Args:
      split: the training images.
      settings: the values of `Job`.
      seed: of the run.
      index: the number of the image.
      step, place: its batch and its place in the global batch, which with `seed` decide the draws.

    Returns:
      {"image": uint8 [S, S, 3], "shown": int32 [2], the height and width of the image on the
      canvas, "boxes": float32 [G, 4], "labels": int32 [G], "present": bool [G]} with G =
      `settings.max_objects`.
    """
    canvas = (settings.image_size, settings.image_size)
    height, width = split.sizes[index]
    at = dense.drawn(
        view_generator(seed, step, place, 0),
        (int(height), int(width)),
        canvas,
        scale=tuple(settings.scale),
    )
    objects = split.objects(index)
    kept = np.flatnonzero(~objects.difficult | settings.train_difficult)
    rows = slice(len(kept))
    boxes = np.zeros((settings.max_objects, 4), np.float32)
    labels = np.zeros(settings.max_objects, np.int32)
    boxes[rows], labels[rows] = dense.boxes(objects.boxes[kept], at), objects.labels[kept]
    return {
        "image": dense.image(split.image(index), at, canvas),
        "shown": np.array(at.shown, np.int32),
        "boxes": boxes,
        "labels": labels,
        "present": np.arange(settings.max_objects) < len(kept),
    }


class Evaluation:
    """Measures and draws on the test images."""

    def __init__(self, predictor: Predictor, seed: int):
        self._predictor, self._seed = predictor, seed
        self._curves: list[average_precision.Curve] = []

    def scores(self, params: Any, stats: Any) -> dict[str, Any]:
        """Returns RESULTS in [0, 1] and the AP of each class that occurs."""
        split = self._predictor.split
        found = []
        with console.progress("Detecting on the test images", len(split), "image") as shown:
            for _, each in self._predictor(params, stats, np.arange(len(split))):
                found.append(each)
                shown.update(len(found))
        truth = [split.objects(index) for index in range(len(split))]
        count = len(split.classes)
        self._curves = average_precision.voc_curves(truth, found, count)
        coco = average_precision.coco(truth, found, count)
        whole = average_precision.voc(truth, trivial(split), count)
        by_area = self._by_area()
        return {
            "map": average_precision.mean(list(by_area.values())),
            "map_11_points": average_precision.mean(
                [average_precision.eleven_points(curve) for curve in self._curves]
            ),
            "map_trivial": average_precision.mean(whole),
            "coco_ap": coco["AP"],
            "coco_ap50": coco["AP50"],
            "coco_ap75": coco["AP75"],
            "ap": by_area,
        }

    def _by_area(self) -> dict[str, float]:
        """Returns the AP of each class that has an object that is not difficult."""
        rows = zip(self._predictor.split.classes, self._curves, strict=True)
        values = {name: float(average_precision.area(curve)) for name, curve in rows}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def draw(self, params: Any, stats: Any) -> dict[str, np.ndarray]:
        """Returns the pictures of PICTURES, uint8 [h, w, 3]; curves are of the last scores."""
        split = self._predictor.split
        drawn = np.random.default_rng(self._seed).permutation(len(split))[:_SHOWN]
        rows = [
            pictures.Detected(split.image(index), split.objects(index), each)
            for index, each in self._predictor(params, stats, np.sort(drawn))
        ]
        found = {"boxes": pictures.boxes(rows, split.classes, least=_LEAST)}
        if self._curves:
            with style.context():
                title = "Precision over recall, IoU 0.5"
                curves = pictures.curves(self._curves, split.classes, title)
                found["precision_recall"] = style.picture(curves)
                bars = pictures.bars(self._by_area(), "Average precision of each class", "AP (%)")
                found["ap_of_classes"] = style.picture(bars)
        return found


def trivial(split: Tree) -> list[Detections]:
    """Returns the trivial detections: each whole image, for every class, with the same score."""
    labels = np.arange(len(split.classes), dtype=np.int32)
    scores = np.ones(len(labels), np.float32)
    return [
        Detections(
            np.tile(np.array([[0, 0, width, height]], np.float32), (len(labels), 1)), labels, scores
        )
        for height, width in split.sizes
    ]
