"""Trains tiny networks on all devices there are, and writes down what happened.

    PYTHONPATH=. python tests/trajectory.py FOLDER CASE ...

with XLA_FLAGS=--xla_force_host_platform_device_count=8 writes FOLDER/8.npz; test_topology.py
compares those of several device counts. Names in it:

    CASE/metrics/NAME [steps], CASE/state/PATH  what a run logged, and its last state
    CASE/images [steps, B]                      a checksum of each image, in global order
    CASE/replicas                               leaves of which two devices hold different values
    asked                                       JSON of the collectives of IE-CL's step, if the
                                                devices are several

Each case saves a checkpoint in FOLDER/from_{devices}; with --resume=DEVICES it goes on from that of
so many devices besides (CASE resumed). On one device IE-CL also runs with two images of each batch
exchanged (exchanged). Cases that are not in WHOLE take one step.
"""

import argparse
import functools
import json
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np
import tiny_network

from iecl_jax import data
from iecl_jax.config import kinds
from iecl_jax.configs import resnet18
from iecl_jax.run import seal
from iecl_jax.run.checkpoint import Checkpointer
from iecl_jax.tools.benchmark import collectives, hlo
from iecl_jax.train import experiment

BATCH, STEPS, SAVED_AT = 16, 5, 2
RATE = 3e-4  # at batch 256: a thousandth of the recipe's, at which so small a network is chaotic
QUEUE = 3 * BATCH  # the batches go round it
CASES: dict[str, dict[str, Any]] = {
    "ie_cl": {},
    # On one device a device holds several groups, on 8 a group lies on four devices.
    "moco_v2": {"encoder.bn_group": 8, "method.queue_size": QUEUE},
    **{name: {} for name in kinds.names("method") if name not in ("ie_cl", "moco_v2")},
    # A group has all views of a size of four images, and in the heads all views of two images.
    "byol+crops": {"encoder.bn_group": 8, "method.batch_stats": "size"},
    "bfloat16": {"train.precision": "bfloat16"},
    "float16": {"train.precision": "float16"},
}
WHOLE = ("ie_cl", "moco_v2")
Run = dict[str, np.ndarray]


def tiny_config(case: str) -> ml_collections.ConfigDict:
    """The recipe of a case on 8-px generated images, with the smallest networks."""
    method = case if case.split("+")[0] in kinds.names("method") else "ie_cl"
    config = resnet18.get_config(f"cifar10,{method},smoke")
    tiny_network.shrink(config)
    config.train.batch_size = BATCH
    config.saib.update({"group_size": 2, "patch_size": 2})
    config.optimizer.learning_rate = RATE
    if case != "ie_cl":  # the views of the others are its
        tiny_network.plain_views(config)
    config.update_from_flattened_dict(CASES[case])
    return config


class Trainer:
    """The compiled step of a case and its initial state."""

    def __init__(self, case: str):
        self.config = tiny_config(case)
        self.split = data.open_split(self.config.data, "pretrain")
        self.built = experiment.build(
            self.config,
            total_steps=10**6,
            steps_per_epoch=1000,
            num_classes=10,
            num_images=len(self.split),
        )

    def initial(self) -> Any:
        """The state with which the first epoch begins; drawn features take those of the images."""
        state = self.built.create_state()
        image = np.zeros((1, *self.split.image_shape, 3), np.float32)
        encode = self.built.method.encode
        width = jax.eval_shape(encode, state.params, state.method_state, image)["pooled"].shape[1]
        drawn = np.random.default_rng(0).normal(size=(len(self.split), width))
        return self.built.begin_epoch(state, 0, lambda *_: np.float32(drawn))

    def run(
        self,
        steps: int,
        state: Any = None,
        *,
        start: int = 0,
        change: Callable[[Any], Any] = lambda batch: batch,
        save: Callable[[int, Any, int], None] = lambda step, state, position: None,
    ) -> Run:
        """Trains from step `start` up to `steps`; see the head of the file for what it returns."""
        state = self.initial() if state is None else state
        rows, sums = [], []
        with data.TrainBatches(self.config, self.split, start=start) as batches:
            for step in range(start + 1, steps + 1):
                batch = change(next(batches))
                images = np.asarray(batch["image"])
                images = images.reshape(-1, *images.shape[2:])
                sums.append([zlib.crc32(image.tobytes()) for image in images])
                state, metrics = self.built.steps(state, [batch])
                rows.append({name: row[0] for name, row in jax.device_get(metrics).items()})
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


def exchanged(batch: Any) -> Any:
    """The batch of one device with its first and last image in each other's place."""
    order = np.array([BATCH - 1, *range(1, BATCH - 1), 0])
    return {name: leaf[:, order] for name, leaf in batch.items()}


def asked(config: ml_collections.ConfigDict) -> np.ndarray:
    """JSON of the `hlo.collectives` of the step."""
    text = collectives.lower(config).as_text("hlo", debug_info=True)
    return np.array(json.dumps(hlo.collectives(text)))


def checkpointer(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> Checkpointer:
    return Checkpointer(workdir, keep=1, keep_best=0, config=config)


def save(
    workdir: pathlib.Path, config: ml_collections.ConfigDict, step: int, state: Any, position: int
) -> None:
    """A `save` for `Trainer.run`, but for the first two arguments, that keeps step SAVED_AT."""
    if step == SAVED_AT:
        checkpoints = checkpointer(workdir, config)
        checkpoints.save(step, state, position=position, wait=True)
        checkpoints.close()


def runs_of(case: str, folder: pathlib.Path, resume: int) -> dict[str, Run]:
    """The runs of a case by their names; see the head of the file."""
    trainer, devices = Trainer(case), jax.device_count()
    if case not in WHOLE:
        return {case: trainer.run(1)}
    saving = functools.partial(save, folder / f"{case}_from_{devices}", trainer.config)
    found = {case: trainer.run(STEPS, save=saving)}
    if case == "ie_cl" and devices == 1:
        found["exchanged"] = trainer.run(STEPS, change=exchanged)
    if resume:
        checkpoints = checkpointer(folder / f"{case}_from_{resume}", trainer.config)
        step, state, position, *_ = checkpoints.restore(trainer.built.create_state())
        assert step == position == SAVED_AT
        found[f"{case} resumed"] = trainer.run(STEPS, state, start=position)
    return found


def main() -> None:
    """Runs the cases as this number of devices does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--resume", type=int, default=0)
    args = parser.parse_args()
    results: Run = {}
    for case in args.cases:
        for name, run in runs_of(case, args.folder, args.resume).items():
            results |= {f"{name}/{key}": array for key, array in run.items()}
        if case == "ie_cl" and jax.device_count() > 1:
            results["asked"] = asked(tiny_config(case))
    np.savez(args.folder / f"{jax.device_count()}.npz", **results)


if __name__ == "__main__":
    main()
