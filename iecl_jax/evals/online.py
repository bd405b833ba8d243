"""What pretraining measures on the way and at its end, and the pictures it leaves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging

from iecl_jax import data
from iecl_jax.evals import comparison, knn, linear_probe, probe_grid
from iecl_jax.evals.encoder import SplitEncoder
from iecl_jax.evals.pictures import gallery
from iecl_jax.methods import Method
from iecl_jax.train.actions import Evaluation, Every
from iecl_jax.train.experiment import Experiment
from iecl_jax.train.loop import Now
from iecl_jax.train.state import TrainState

_GALLERY_COLUMNS = 8


def scheduled(
    config: ml_collections.ConfigDict,
    experiment: Experiment,
    pretrain_split: data.Split,
    run_dir: str,
) -> tuple[Sequence[Evaluation], Callable[[int, TrainState], dict[str, np.ndarray]]]:
    """(evaluations, gallery) of `train.actions`."""
    online = OnlineEvaluation(config, experiment.method, pretrain_split, run_dir)
    every = config.eval.every_epochs * max(1, len(pretrain_split) // config.train.batch_size)
    evaluations = [
        Scheduled(Every(every, at_end=True), lambda state, now: online(state, last=now.last)),
        Scheduled(
            Every(0, at_end=True), lambda state, now: online.compare(experiment.create_state, state)
        ),
    ]
    return evaluations, lambda step, state: {
        "gallery": online.gallery(step, state, experiment.views)
    }


class Scheduled(NamedTuple):
    """An `Evaluation` of `train.actions`."""

    due: Every
    measure: Callable[[TrainState, Now], dict[str, Any]]

    def __call__(self, state: TrainState, now: Now) -> dict[str, Any]:
        """The measure."""
        return self.measure(state, now)


_LINEAR_RATES, _LINEAR_BATCH = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 512


class OnlineEvaluation:
    """What pretraining measures at intervals: kNN and the online probe on the test split."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        method: Method,
        pretrain_split: data.Split,
        run_dir: str,
    ):
        """Raises ValueError where the settings of `eval` ask for more labels than there are."""
        self._config, self._run_dir, self._split = config, run_dir, pretrain_split
        train = pretrain_split if pretrain_split.is_train else None
        self._encoder = SplitEncoder(config, method, train)
        if self._encoder.missing:
            logging.warning("No kNN and no probe accuracy: %s", self._encoder.missing)
        else:
            self._check_labels(self._encoder.splits["train"].labels)
        self._transform = jax.jit(method.transform)

    def _check_labels(self, labels: np.ndarray) -> None:
        counts = np.bincount(labels[labels >= 0], minlength=self._encoder.num_classes)
        settings = self._config.eval
        if settings.knn_k > counts.sum():
            raise ValueError(
                f"eval.knn_k={settings.knn_k} is more than the {counts.sum()} labelled training "
                f"images of {self._config.data.name}: lower it."
            )
        if settings.linear_epochs and counts.max() < 2:
            raise ValueError(
                f"eval.linear_epochs={settings.linear_epochs} needs a class of two labelled images "
                f"or more in {self._config.data.name}: set it to 0."
            )
        if settings.labels_per_class > counts.min():
            raise ValueError(
                f"eval.labels_per_class={settings.labels_per_class} is more than the smallest "
                f"class of {self._config.data.name}, {counts.min()}: lower it."
            )

    def __call__(self, state: TrainState, *, last: bool) -> dict[str, float]:
        """{"knn_top1", "online_probe_top1"} in [0, 1]; {} where the data have no test labels.

        At the last step with `eval.linear_epochs` also "linear_top1" and "linear_top5", of a linear
        classifier on the features of the unaugmented training images: the job `linear_probe` with
        `probe.cached`, but for its number of epochs and learning rates from 0.01 to 3.
        """
        if self._encoder.missing:
            return {}
        encode = self._encoder.bind(state.params, state.method_state)
        train, train_labels = self._encoder.extract(encode, "train")
        test, test_labels = self._encoder.extract(encode, "test")
        probe = jax.tree.map(lambda leaf: leaf[None], jax.device_get(state.params["online_probe"]))
        normalized = linear_probe.normalize_features(test, "layer_norm")
        scores = {
            "knn_top1": self._knn(train, train_labels, test, test_labels),
            "online_probe_top1": float(
                linear_probe.grid_accuracy(probe, normalized, test_labels)[0]
            ),
        }
        if last and self._config.eval.linear_epochs:
            tested = probe_grid.choose_and_test(
                linear_probe.normalize_features(train, "layer_norm"),
                train_labels,
                normalized,
                test_labels,
                learning_rates=_LINEAR_RATES,
                num_classes=self._encoder.num_classes,
                num_epochs=self._config.eval.linear_epochs,
                batch_size=_LINEAR_BATCH,
                momentum=0.9,
                weight_decay=1e-5,
                seed=self._config.seed,
            )
            scores |= {
                name.replace("test_", "linear_"): float(score)
                for name, score in tested.items()
                if name.startswith("test_") and isinstance(score, float)
            }
        return scores

    def _knn(self, train, train_labels, test, test_labels) -> float:
        settings = self._config.eval
        return knn.knn_accuracy(
            train,
            train_labels,
            test,
            test_labels,
            k=settings.knn_k,
            temperature=settings.knn_temperature,
            num_classes=self._encoder.num_classes,
        )

    def gallery(
        self, step: int, state: TrainState, views: Callable[[int, Any], list[jax.Array]]
    ) -> np.ndarray:
        """Draws the first pretraining images as `views` and SAIB see them at `step`.

        Written to RUN_DIR/gallery/STEP.png by process 0. Returns the picture, uint8 [h, w, 3].
        """
        config = self._config
        count = _GALLERY_COLUMNS
        if config.saib.enabled:
            count = config.saib.group_size * -(-count // config.saib.group_size)
        indices = np.arange(count) % len(self._split)
        batch = next(data.eval_batches(config.data, self._split, count, indices))
        seen = views(step, {"image": batch["image"], "label": batch["label"]})
        params, method_state = jax.device_get((state.params, state.method_state))
        transformed = self._transform(params, method_state, seen[1])
        shown = slice(None, _GALLERY_COLUMNS)
        picture = gallery.draw(
            batch["image"][shown] / 255,
            np.stack([view[shown] for view in seen[:2]]),
            np.asarray(transformed[shown]),
        )
        if jax.process_index() == 0:
            gallery.save(picture, Path(self._run_dir) / "gallery" / f"{step:08d}.png")
        return picture

    def compare(
        self, create_state: Callable[[], TrainState], state: TrainState
    ) -> dict[str, dict[str, dict[str, float]]]:
        """The final table, printed: raw pixels, the untrained encoder and the trained one.

        Linear accuracy with `eval.labels_per_class` labels of each class, and kNN with all.
        Returns {"comparison": {representation: scores}}; {} where labels_per_class is 0 or there
        are no labels.
        """
        settings = self._config.eval
        if not settings.labels_per_class or self._encoder.missing:
            return {}
        untrained = create_state()
        encodes = {
            "raw pixels": comparison.raw_pixels,
            "untrained encoder": self._encoder.bind(untrained.params, untrained.method_state),
            "trained encoder": self._encoder.bind(state.params, state.method_state),
        }
        representations = {}
        for name, encode in encodes.items():
            train, train_labels = self._encoder.extract(encode, "train")
            test, test_labels = self._encoder.extract(encode, "test")
            representations[name] = (train, test)
        scores = comparison.compare(
            representations,
            train_labels,
            test_labels,
            labels_per_class=settings.labels_per_class,
            seed=self._config.seed,
            knn_k=settings.knn_k,
            knn_temperature=settings.knn_temperature,
            num_classes=self._encoder.num_classes,
        )
        title = (
            f"{self._config.data.name}, seed {self._config.seed}: test accuracy with "
            f"{settings.labels_per_class} labels a class (mean ± deviation over draws of them)"
        )
        print(f"\n{comparison.format_table(scores, title)}\n", flush=True)
        return {"comparison": scores}
