"""Segmentation on PASCAL VOC (Table 2b): trains the encoder with a head that classifies pixels.

The measure is the mean IoU over the classes, at the images' own size, of one confusion matrix over
the whole test split. See docs/voc.md.
"""

from typing import Any

import jax
import numpy as np

from iecl_jax import console
from iecl_jax.config.rules import NOT_NEGATIVE, PIXELS, RANGE, SHARE, WIDTH
from iecl_jax.config.section import key, with_defaults
from iecl_jax.data.augment import dense
from iecl_jax.data.augment.operators import jitter
from iecl_jax.data.crops import view_generator
from iecl_jax.data.voc.mask import IGNORED
from iecl_jax.data.voc.tree import Tree
from iecl_jax.evals.measures import confusion
from iecl_jax.evals.parts import backbone, training, voc
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.segmenter import Network, Predictor
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.evals.parts.training import Task, Training
from iecl_jax.evals.pictures import dense as pictures
from iecl_jax.evals.pictures import style
from iecl_jax.models import deeplab
from iecl_jax.models.encoders.resnet import STRIDE

NAME = "segmentation"
RESULTS = {
    "miou": "segmentation, mean IoU (%)",
    "miou_trivial": "mean IoU of the most frequent class everywhere (%)",
    "pixel_accuracy": "segmentation, pixels (%)",
}
PICTURES = {
    "masks": "Test images with their true masks and the predicted ones. White is not counted.",
    "iou_of_classes": "IoU of each class on the test images.",
}
_SHOWN = 8  # test images in the picture
Data = voc.Images


class Job(Training):
    """The settings on a checkpoint."""

    image_size = key(512, PIXELS, "side of the square into which images are placed, in pixels")
    output_stride = key(16, STRIDE, "pixels of the image per pixel of the encoder's last stage")
    head = key("deeplab", deeplab.HEADS, "DeepLabv3, or FCN: a convolution and a linear layer")
    head_channels = key(256, WIDTH, "channels of DeepLabv3")
    auxiliary_weight = key(
        0.4, NOT_NEGATIVE, "weight of the loss of an FCN head on the third stage; 0 = no such head"
    )
    scale = key((0.5, 2.0), RANGE, "limits of the random scale; at 1 the whole image fits")
    most_of_a_class = key(
        0.75, SHARE, "share of one class in a crop above which it is drawn again, up to ten times"
    )
    jitter = with_defaults(
        jitter.Settings,
        {"prob": 0.5, "brightness": 0.125, "contrast": 0.5, "saturation": 0.5, "hue": 0.05},
    )


class Settings(AtEnd, Job):
    """The settings during a training, where this evaluation is refused."""


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if the images, the encoder or the devices do not fit the settings."""
    training.check(NAME, settings, len(_images(subject).train))
    if subject.params is not None:
        training.check_resume(subject, task_of(subject, settings), settings)


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Trains, and returns RESULTS in [0, 1] and {"iou": {class: IoU}}, with the last metrics."""
    task = task_of(subject, settings)
    return training.train(subject, task, settings)[1]


def _images(subject: Subject) -> voc.Splits:
    return voc.splits(subject, NAME, needs="masks")


@training.built_once
def task_of(subject: Subject, settings: Any) -> Task:
    """Returns the training of a subject."""
    images, reading = _images(subject), subject.own_data
    assert reading is not None  # as `_images` has made sure
    encoder = backbone.of_subject(
        subject,
        precision=settings.precision,
        remat=settings.remat,
        output_stride=settings.output_stride,
        stages=("stage3", "stage4"),
        name=NAME,
    )
    num_classes = len(images.train.classes) + 1  # with the background
    network = Network(encoder, settings, num_classes)
    head = network.init(jax.random.key(subject.seed))
    predictor = Predictor(network, images.test, settings, reading.num_threads)
    evaluation = Evaluation(predictor, num_classes, subject.seed)
    return Task(
        name=NAME,
        title="Training the segmentation",
        params={"encoder": encoder.params, "head": head["params"]},
        stats={"encoder": encoder.stats, "head": head["batch_stats"]},
        loss=network.loss,
        open_batches=voc.batches(subject, images.train, read, settings),
        images=images.train.identity,
        evaluate=evaluation.scores,
        draw=evaluation.draw,
        words=RESULTS,
    )


def read(split: Tree, settings: Any, seed: int, index: int, step: int, place: int) -> Any:
    """Returns an augmented training image.

    Of up to ten placements the first is taken in which no class has more than
    `settings.most_of_a_class` of the pixels, as in mmsegmentation's RandomCrop.

    Args:
      split: the training images.
      settings: the values of `Job`.
      seed: of the run.
      index: the number of the image.
      step, place: its batch and its place in the global batch, which with `seed` decide the draws.

    Returns:
      {"image": uint8 [S, S, 3], "mask": uint8 [S, S], IGNORED where there is no image, "shown":
      int32 [2], the height and width of the image}.
    """
    pixels, classes = split.image(index), split.mask(index)
    generator = view_generator(seed, step, place, 0)
    canvas = (settings.image_size, settings.image_size)
    for _ in range(10):
        at = dense.drawn(generator, classes.shape, canvas, scale=tuple(settings.scale))
        mask = dense.mask(classes, at, canvas, padding=IGNORED)
        counts = np.bincount(mask[mask != IGNORED])
        if counts.size and counts.max() <= settings.most_of_a_class * counts.sum():
            break
    image = dense.image(pixels, at, canvas)
    return {"image": image, "mask": mask, "shown": np.array(at.shown, np.int32)}


class Evaluation:
    """Measures and draws on the test images."""

    def __init__(self, predictor: Predictor, num_classes: int, seed: int):
        self._predictor, self._num_classes, self._seed = predictor, num_classes, seed
        self._iou: dict[str, float] = {}

    def scores(self, params: Any, stats: Any) -> dict[str, Any]:
        """Returns RESULTS in [0, 1] and the IoU of each class that occurs."""
        split, count = self._predictor.split, self._num_classes
        matrix = np.zeros((count, count), np.int64)
        with console.progress("Segmenting the test images", len(split), "image") as shown:
            predicted = self._predictor(params, stats, np.arange(len(split)))
            for number, (index, mask) in enumerate(predicted, 1):
                matrix += confusion.count(split.mask(index), mask, count)
                shown.update(number)
        of_class = zip(("background", *split.classes), confusion.iou(matrix), strict=True)
        self._iou = {name: float(value) for name, value in of_class if np.isfinite(value)}
        return {
            "miou": confusion.mean_iou(matrix),
            "miou_trivial": confusion.mean_iou(confusion.trivial(matrix)),
            "pixel_accuracy": confusion.pixel_accuracy(matrix),
            "iou": self._iou,
        }

    def draw(self, params: Any, stats: Any) -> dict[str, np.ndarray]:
        """Returns the pictures of PICTURES, uint8 [h, w, 3]; the bars are of the last scores."""
        split = self._predictor.split
        drawn = np.random.default_rng(self._seed).permutation(len(split))[:_SHOWN]
        rows = [
            pictures.Segmented(split.image(index), split.mask(index), mask)
            for index, mask in self._predictor(params, stats, np.sort(drawn))
        ]
        found = {"masks": pictures.masks(rows, split.classes)}
        if self._iou:
            with style.context():
                bars = pictures.bars(self._iou, "IoU of each class", "IoU (%)")
                found["iou_of_classes"] = style.picture(bars)
        return found
