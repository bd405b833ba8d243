"""Fine-tuning: trains the encoder and a linear classifier together on labelled images.

Semi-supervised with a share of the labels, and with all of them, as in section B.5 of SimCLR (Chen
et al. 2020) and C.2 of BYOL (Grill et al. 2020); the two rates, of the encoder and of the
classifier, are those of SwAV (Caron et al. 2020) and VICReg (Bardes et al. 2022). If there are
several rates to choose from, each pair trains without a part of the images, which decides; the best
pair then trains on all. Only that training sees the test images. See docs/finetuning.md.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import ml_collections
import numpy as np
from absl import logging

from iecl_jax import data
from iecl_jax.config.rules import COUNT, COUNT_OR_NONE, FEW, INSIDE_SHARE, RATES, Rule
from iecl_jax.config.section import key, with_defaults
from iecl_jax.data import label_list
from iecl_jax.data.split import subset
from iecl_jax.evals.measures import classes, few_labels
from iecl_jax.evals.measures.probe_grid import split_holdout
from iecl_jax.evals.parts import backbone, classifier, crop_and_flip, training
from iecl_jax.evals.parts.crop_and_flip import CropAndFlip
from iecl_jax.evals.parts.schedule import AtEnd
from iecl_jax.evals.parts.subject import Subject
from iecl_jax.evals.parts.training import Optimizer, Schedule, Task, Training
from iecl_jax.evals.pictures import dense as pictures
from iecl_jax.evals.pictures import style

NAME = "finetune"
RESULTS = {
    "finetune_top1": "fine-tuned, top-1 (%)",
    "finetune_top5": "fine-tuned, top-5 (%)",
    "finetune_top1_std": "fine-tuned, standard deviation of top-1 over the seeds (%)",
}
PICTURES = {"accuracy_of_classes": "Accuracy of each class on the test images, after fine-tuning."}
_HELD = {"holdout_top1": "held-out images, top-1 (%)"}
_DECAY = Rule(lambda value: 0 < value <= 1, "more than 0 and at most 1")


class Unregularized(Optimizer):
    """The optimizer, whose rates stand in `encoder_rates` and `head_rates`."""

    learning_rate = None
    weight_decay = Optimizer.weight_decay._replace(default=0.0)


class Job(Training):
    """The settings on a checkpoint."""

    batch_size = Training.batch_size._replace(default=256)
    num_epochs = key(30, COUNT, "passes over the labelled images, used if num_steps is 0")
    num_steps = key(0, COUNT_OR_NONE, "steps of a training; replaces num_epochs if above 0")
    label_share = key(1.0, _DECAY, "share of each class that has a label, at least an image")
    list = key(
        "", None, "text file with the names of the labelled images, in the place of a random share"
    )
    encoder_rates = key(
        (0.01, 0.03, 0.1), RATES, "peak learning rates of the encoder to choose from"
    )
    head_rates = key((0.1, 1.0), RATES, "peak learning rates of the classifier to choose from")
    layer_decay = key(
        1.0, _DECAY, "factor of the rate from a stage of the encoder to the one before it"
    )
    holdout = key(
        0.1, INSIDE_SHARE, "share of the images held out to choose, if there are several rates"
    )
    num_seeds = key(1, FEW, "trainings with the chosen rates; the first has the job's seed")
    optimizer = Unregularized
    schedule = with_defaults(Schedule, {"decay": "cosine", "end_factor": 0.0})
    augment = CropAndFlip


class Settings(AtEnd, Job):
    """The settings during a training."""


class Part(NamedTuple):
    """One of the trainings of a job.

    Attributes:
      name: of its folder.
      seed: of all its random numbers.
      rates: peak learning rates of the encoder and of the classifier.
      train: the images that it trains on.
      held: the held-out images that it is measured on; None = the test images.
    """

    name: str
    seed: int
    rates: tuple[float, float]
    train: data.Split
    held: data.Split | None


def check(subject: Subject, settings: Any) -> None:
    """Raises ValueError if the images, the encoder or the devices do not fit the settings."""
    subject.labels("test")
    for part in [*_candidates(subject, settings), *_finals(subject, settings, _pairs(settings)[0])]:
        own = _of_part(settings, part)
        training.check(NAME, own, len(part.train))
        if subject.params is not None:
            of_part = dataclasses.replace(subject, seed=part.seed)
            training.check_resume(of_part, _task(subject, settings, part), own)


def measure(subject: Subject, settings: Any) -> dict[str, Any]:
    """Trains, and returns RESULTS in [0, 1], means over the seeds, with the last metrics.

    Also {"encoder_rate", "head_rate"}, and {"holdout_accuracy": {encoder rate: {head rate: top-1}}}
    if the rates were chosen, and {"of_seeds": {seed: top-1}} if there are several seeds.
    """
    tried: dict[tuple[float, float], float] = {}
    for part in _candidates(subject, settings):
        try:
            tried[part.rates] = _train(subject, settings, part)["holdout_top1"]
        except FloatingPointError as error:
            logging.warning("The rates %g and %g are not chosen: %s", *part.rates, error)
            tried[part.rates] = 0.0
    rates = max(tried, key=lambda pair: tried[pair]) if tried else _pairs(settings)[0]
    found = {
        part.seed: _train(subject, settings, part) for part in _finals(subject, settings, rates)
    }
    metrics: dict[str, Any] = {
        name: float(np.mean([scores[name] for scores in found.values()]))
        for name in next(iter(found.values()))
    }
    metrics |= dict(zip(("encoder_rate", "head_rate"), rates, strict=True))
    if tried:
        metrics["holdout_accuracy"] = {
            rate: {head: tried[rate, head] for head in settings.head_rates}
            for rate in settings.encoder_rates
        }
    if len(found) > 1:
        top1 = {seed: scores["finetune_top1"] for seed, scores in found.items()}
        metrics["finetune_top1_std"] = float(np.std([*top1.values()], ddof=1))
        metrics["of_seeds"] = top1
    return metrics


def _pairs(settings: Any) -> list[tuple[float, float]]:
    """Returns the pairs of rates to choose from."""
    return [*itertools.product(settings.encoder_rates, settings.head_rates)]


def _labelled(subject: Subject, settings: Any, seed: int) -> np.ndarray:
    """Returns the places int64 [n] of the training images whose labels are used."""
    if settings.list:
        return label_list.places(subject.split("train"), f"{NAME}.list", settings.list)
    return few_labels.draw_share(subject.labels("train"), share=settings.label_share, seed=seed)


def _images(subject: Subject, places: np.ndarray) -> data.Split:
    """Returns the training images at some places."""
    split = subject.split("train")
    return split if len(places) == len(split) else subset(split, places)


def _candidates(subject: Subject, settings: Any) -> Iterator[Part]:
    """Yields a training for each pair of rates, if there are several to choose from."""
    pairs, seed = _pairs(settings), subject.seed
    if len(pairs) == 1:
        return
    places = _labelled(subject, settings, seed)
    labels = subject.labels("train")[places]
    if np.bincount(labels).max() < 2:
        raise ValueError(
            f"{NAME}.encoder_rates={tuple(settings.encoder_rates)} needs a class of two labelled "
            f"images or more, of which one is held out to choose: give one rate of the encoder and "
            f"one in {NAME}.head_rates."
        )
    kept, held = split_holdout(labels, share=settings.holdout, seed=seed)
    train, rest = (_images(subject, places[chosen]) for chosen in (kept, held))
    for rates in pairs:
        yield Part(f"rates-{_words(rates)}", seed, rates, train, rest)


def _finals(subject: Subject, settings: Any, rates: tuple[float, float]) -> Iterator[Part]:
    """Yields the training of each seed on all labels that are used."""
    for number in range(settings.num_seeds):
        seed = (subject.seed + number) % 2**32
        train = _images(subject, _labelled(subject, settings, seed))
        yield Part(f"seed-{seed}-rates-{_words(rates)}", seed, rates, train, None)


def _words(rates: tuple[float, float]) -> str:
    return "-".join(f"{rate:g}" for rate in rates)


def _of_part(settings: Any, part: Part) -> Any:
    """Returns the settings of one training, as `training` reads them."""
    own = ml_collections.ConfigDict(settings.to_dict())
    own.num_steps = own.num_steps or own.num_epochs * (len(part.train) // own.batch_size)
    own.optimizer.learning_rate = 1.0  # The rates of `Task` multiply it.
    own.encoder_rates, own.head_rates = ((rate,) for rate in part.rates)
    return own


def _train(subject: Subject, settings: Any, part: Part) -> dict[str, float]:
    """Trains a part to its end, and returns its last metrics and scores."""
    of_part = dataclasses.replace(subject, seed=part.seed)
    task = _task(subject, settings, part)
    scores = training.train(of_part, task, _of_part(settings, part))[1]
    work, done = subject.work, of_part.work
    work.steps, work.images = work.steps + done.steps, work.images + done.images
    work.seconds, work.params = work.seconds + done.seconds, done.params
    return scores


@training.built_once
def _encoder(subject: Subject, settings: Any) -> backbone.Backbone:
    return backbone.of_subject(
        subject,
        precision=settings.precision,
        remat=settings.remat,
        output_stride=32,
        stages=(),
        name=NAME,
    )


def _task(subject: Subject, settings: Any, part: Part) -> Task:
    """Returns the training of a part."""
    encoder = _encoder(subject, settings)
    config = crop_and_flip.stream_config(
        encoder.config, settings.augment, batch_size=settings.batch_size, seed=part.seed
    )
    network = classifier.Network(encoder, config, subject.num_classes)
    params = {"encoder": encoder.params, "head": network.head(part.seed)}
    rate, of_head = part.rates
    evaluation = Evaluation(subject, network, part.held)
    about = f"rates {rate:g} and {of_head:g}" if part.held is not None else f"seed {part.seed}"
    return Task(
        name=NAME,
        title=f"Fine-tuning, {about}",
        params=params,
        stats={"encoder": encoder.stats, "head": {}},
        loss=network.loss,
        open_batches=functools.partial(data.TrainBatches, config, part.train),
        images=part.train.identity,
        evaluate=evaluation.scores,
        draw=evaluation.draw,
        words=RESULTS | _HELD,
        part=part.name,
        rates=classifier.rates(
            params,
            config.encoder.name,
            part.rates,
            layer_decay=settings.layer_decay,
            name=NAME,
        ),
        way_out=f"Lower {NAME}.encoder_rates and {NAME}.head_rates, here {rate:g} and {of_head:g}.",
    )


class Evaluation:
    """Measures on the held-out images, or on the test images, of which it also draws."""

    def __init__(self, subject: Subject, network: classifier.Network, held: data.Split | None):
        self._subject, self._network, self._held = subject, network, held
        self._of_classes: dict[str, float] = {}

    def scores(self, params: Any, stats: Any) -> Mapping[str, float]:
        """Returns {"holdout_top1"}, or RESULTS of this training, in [0, 1]."""
        split = self._held or self._subject.encoder.labelled("test")
        encode = self._network.bind(params, stats)
        logits, labels = self._subject.encoder.extract(encode, split)
        if self._held:
            return {"holdout_top1": classes.top(logits, labels, 1)}
        table = classes.per_class(logits.argmax(1), labels, split.class_names)["classes"]
        self._of_classes = {each["name"]: each["accuracy"] for each in table}
        found = {"finetune_top1": classes.top(logits, labels, 1)}
        if self._network.num_classes > 5:
            found["finetune_top5"] = classes.top(logits, labels, 5)
        return found

    def draw(self, params: Any, stats: Any) -> dict[str, np.ndarray]:
        """Returns the pictures of PICTURES, uint8 [h, w, 3], of the last scores."""
        if not self._of_classes:
            return {}
        with style.context():
            title = "Accuracy of each class"
            bars = pictures.bars(self._of_classes, title, "accuracy (%)")
            return {"accuracy_of_classes": style.picture(bars)}
