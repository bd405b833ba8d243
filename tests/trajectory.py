"""Trains tiny networks on all devices there are, and writes down what happened.

    PYTHONPATH=. python tests/trajectory.py FOLDER CASE ...

with XLA_FLAGS=--xla_force_host_platform_device_count=8 writes FOLDER/8.npz; test_topology.py
compares those of several device counts. Names in it:

    CASE/metrics/NAME [steps], CASE/state/PATH  what a run logged, and its last state
    CASE/images [steps, B]                      a checksum of each image, in global order
    CASE/replicas                               leaves of which two devices hold different values
    views [2, B, S, S, 3]                       of the first step of IE-CL
    asked, sent                                 collectives of its step, see `program`

On one device it also runs IE-CL from parameters moved by one unit in the last place (ulp0, ulp1)
and with two images of each batch exchanged (exchanged). The run on 2 devices is saved after
SAVED_AT steps and goes on with 4 (resumed), that on 8 with 1; so run them in the order of LAYOUTS.
Cases that are not in ON_EVERY_LAYOUT take one step.
"""

import json
import pathlib
import sys
import zlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from configs import resnet18
from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.data import augment
from iecl_jax.models import collectives
from iecl_jax.models.encoders.resnet import ARCHITECTURES
from iecl_jax.run import seal
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.tools.benchmark import hlo, step_program
from iecl_jax.train import experiment
from iecl_jax.train.step import AXIS

LAYOUTS = (2, 4, 8, 1)
RESUMED_FROM = {4: 2, 1: 8}
BATCH, STEPS, SAVED_AT = 32, 50, 6
RATE = 3e-4  # at batch 256: a thousandth of the recipe's, at which so small a network is chaotic
CASES: dict[str, dict[str, Any]] = {
    "ie_cl": {},
    # On 1 and 2 devices a device holds several groups, on 8 a group lies on two devices.
    "moco_v2": {"encoder.bn_group": 8, "method.queue_size": 96},
    **{name: {} for name in kinds.names("method") if name not in ("ie_cl", "moco_v2")},
    "bfloat16": {"train.precision": "bfloat16"},
    "float16": {"train.precision": "float16"},
}
ARCHITECTURES["tiny"] = ((1,), False)
ON_EVERY_LAYOUT = ("ie_cl", "moco_v2")
Run = dict[str, np.ndarray]


def tiny_config(case: str) -> ml_collections.ConfigDict:
    """The recipe of a case on 8-px generated images, with the smallest networks."""
    method = case if case in kinds.names("method") else "ie_cl"
    config = resnet18.get_config(f"cifar10,{method},smoke")
    config.data.image_size = 8
    config.train.batch_size = BATCH
    config.encoder.width = 4
    if case != "ie_cl":  # that is a ResNet-10
        config.encoder.name = "tiny"
    config.encoder.spectral_norm = True
    config.saib.update({"group_size": 2, "patch_size": 2})
    config.optimizer.learning_rate = RATE
    if case not in ON_EVERY_LAYOUT:  # their views are IE-CL's; a short program compiles soon
        for view in (config.augment.anchor, config.augment.query):
            view.update({name: 0.0 for name in view if name.endswith("_prob")})
            view.update({"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "noise_prob": 1.0})
    config.update_from_flattened_dict(CASES[case])
    return config


class Trainer:
    """The compiled step of a case and its initial state."""

    def __init__(self, case: str):
        self.config = tiny_config(case)
        self.built = experiment.build(self.config, **step_program.LENGTH)
        self.split = data.open_split(self.config.data, "pretrain")
        state = self.built.create_state()
        self._sharding = jax.tree.map(lambda leaf: leaf.sharding, state)
        self._initial = jax.device_get(state)

    def state(self, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Any:
        """A fresh initial state on the devices, with its parameters changed."""
        initial = self._initial
        if change is not None:
            initial = initial.replace(params=jax.tree.map(change, initial.params))
        return jax.device_put(initial, self._sharding)

    def run(
        self,
        steps: int,
        state: Any,
        *,
        start: int = 0,
        change: Callable[[Any], Any] = lambda batch: batch,
        save: Callable[[int, Any, int], None] = lambda step, state, position: None,
    ) -> Run:
        """Trains from step `start` up to `steps`; see the head of the file for what it returns."""
        rows, sums = [], []
        with data.TrainBatches(self.config, self.split, start=start) as batches:
            for step in range(start + 1, steps + 1):
                batch = change(next(batches))
                sums.append([zlib.crc32(image.tobytes()) for image in _global(batch["image"])])
                state, metrics = self.built.step(state, batch)
                rows.append(jax.device_get(metrics))
                save(step, state, batches.position)
        named = seal.paths_and_leaves(state)
        return {
            "images": np.array(sums),
            "replicas": np.array([path for path, leaf in named if not replicas_equal(leaf)], str),
            **{f"metrics/{name}": np.array([row[name] for row in rows]) for name in rows[0]},
            **{f"state/{path}": np.asarray(leaf) for path, leaf in named},
        }


def replicas_equal(leaf: jax.Array) -> bool:
    """Whether every device holds the same bits; reading the array alone shows the first one's."""
    first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
    return all(first.tobytes() == other.tobytes() for other in others)


def _global(shards: jax.Array) -> np.ndarray:
    """[D, b, ...] -> [B, ...]"""
    return np.asarray(shards).reshape(-1, *shards.shape[2:])


def ulp(seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Moves each float by one unit in the last place, up or down at random."""
    rng = np.random.default_rng(seed)

    def moved(leaf: np.ndarray) -> np.ndarray:
        direction = np.where(rng.integers(0, 2, leaf.shape), np.inf, -np.inf)
        return np.nextafter(leaf, direction.astype(leaf.dtype))

    return moved


def exchanged(batch: Any) -> Any:
    """The batch of one device with its first and last image in each other's place."""
    order = np.array([BATCH - 1, *range(1, BATCH - 1), 0])
    return {name: leaf[:, order] for name, leaf in batch.items()}


def first_views(trainer: Trainer) -> np.ndarray:
    """The views of the first step, float32 [2, B, S, S, 3]."""
    config = trainer.config
    make = augment.make_augment(config.augment, config.data.image_size)
    key = augment.run_key(np.uint32(config.seed))

    def of_device(images):
        places = collectives.places(len(images), AXIS)
        return make(augment.image_keys(key, np.int32(0), places), images)

    with data.TrainBatches(config, trainer.split) as batches:
        of_devices = np.asarray(jax.pmap(of_device, axis_name=AXIS)(next(batches)["image"]))
    return np.moveaxis(of_devices, 0, 1).reshape(2, BATCH, *of_devices.shape[3:])


def program(config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
    """{"asked", "sent"}: JSON of the `hlo.collectives` of the step, lowered and compiled."""
    lowered = step_program.lower(config)
    texts = {"asked": lowered.as_text("hlo", debug_info=True), "sent": lowered.compile().as_text()}
    return {name: np.array(json.dumps(hlo.collectives(text))) for name, text in texts.items()}


def main(folder: pathlib.Path, cases: list[str]) -> None:
    """Runs the cases as this number of devices does; see the head of the file."""
    devices = jax.device_count()
    results: dict[str, np.ndarray] = {}
    for case in cases:
        trainer = Trainer(case)
        steps = STEPS if case in ON_EVERY_LAYOUT else 1
        runs = {case: {}}
        if case == "ie_cl":
            results["views"] = first_views(trainer)
            if devices in (1, 8):  # the two that a test looks at
                results |= program(trainer.config)
            runs[case]["save"] = saver(folder / f"from_{devices}", trainer.config)
            if devices == 1:
                runs |= {f"ulp{seed}": {"state": trainer.state(ulp(seed))} for seed in range(2)}
                runs["exchanged"] = {"change": exchanged}
            if devices in RESUMED_FROM:
                checkpoints = checkpointer(folder / f"from_{RESUMED_FROM[devices]}", trainer.config)
                step, state, position = checkpoints.restore(trainer.state())
                assert step == position == SAVED_AT
                runs["resumed"] = {"state": state, "start": position}
        for name, options in runs.items():
            run = trainer.run(steps, **{"state": trainer.state()} | options)
            results |= {f"{name}/{key}": array for key, array in run.items()}
    np.savez(folder / f"{devices}.npz", **results)


def checkpointer(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Checkpointer:
    return Checkpointer(workdir, keep=1, keep_best=0, config=config)


def saver(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> Callable[[int, Any, int], None]:
    """A `save` for `Trainer.run` that keeps step SAVED_AT."""

    def save(step: int, state: Any, position: int) -> None:
        if step == SAVED_AT:
            checkpoints = checkpointer(workdir, config)
            checkpoints.save(step, state, position=position, wait=True)
            checkpoints.close()

    return save


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2:])
